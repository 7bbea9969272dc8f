"""What every data set of labelled pictures has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class LabelledDataset(Protocol):
    """Pictures with the labels of one or several tasks.

    Attributes:
        labels: The class names of each task, by the name of its head.

    An item is a dictionary: `image` (3, H, W) uint8, and `targets/<task>` for each task that the picture has a label
    of.
    """

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...
