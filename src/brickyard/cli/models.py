"""The model that an argument of a command means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import brickyard

if TYPE_CHECKING:
    from brickyard.collection import BrickCollection


def locate(name: str) -> str:
    """What the name means here, for `create_model`: see `sources.located`."""
    from brickyard.storage.sources import uri  # noqa: PLC0415 - it loads torch, and --help is to be quick

    return uri.locate(name)


def trained(name: str) -> BrickCollection:
    """The trained model of a name, a folder, a repo or a lock."""
    return brickyard.create_model(locate(name), pretrained=True)
