"""The process group of torch.distributed: whether there is one, and how large it is."""

from __future__ import annotations

from torch import distributed


def is_distributed() -> bool:
    """Return True if torch.distributed is available and its default process group is initialized."""
    return distributed.is_available() and distributed.is_initialized()


def world_size() -> int:
    """Return the number of processes: 1 without a process group."""
    return distributed.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Return the index of this process: 0 without a process group."""
    return distributed.get_rank() if is_distributed() else 0
