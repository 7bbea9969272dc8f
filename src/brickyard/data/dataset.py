"""The protocol of data sets of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from brickyard.data.label_kinds import LabelKind


@runtime_checkable
class LabelledDataset(Protocol):
    """Images with the labels of one or several tasks.

    An item is a dictionary: `image` (3, H, W) uint8, and `targets/<label>` for each label that the image has.

    Attributes:
        labels: The class names of each label, by the name of the head that reads it.
        kinds: The kind of each label, by its name in `targets/<label>`.
    """

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def kinds(self) -> Mapping[str, LabelKind]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...
