"""A Hugging Face Hub on loopback, for tests that drive the real client."""

from tests.hub.server import LoopbackHub

__all__ = ["LoopbackHub"]
