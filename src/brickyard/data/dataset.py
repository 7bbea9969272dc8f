"""The protocols of data sets of labelled images, and the names of splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from brickyard.core.specs import KeypointSpec
from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError


@runtime_checkable
class LabelledDataset(Protocol):
    """Images with the labels of one or several tasks.

    An item is a dictionary: `image` (3, H, W) uint8, and `targets/<label>` for each label that the image has.

    Attributes:
        labels: The class names of each label, by the name of the head that reads it; () for a label without classes,
            such as a depth.
        kinds: The kind of each label, by its name in `targets/<label>`.
    """

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def kinds(self) -> Mapping[str, LabelKind]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@runtime_checkable
class CheckableDataset(LabelledDataset, Protocol):
    """A data set on disk, whose samples can be checked without decoding images."""

    def check(self, index: int, /) -> int:
        """Check the labels and the header of the image of one sample.

        Returns:
            The number of objects that are too small for a box.

        Raises:
            BrickInputError: A file is absent or damaged, or the labels do not fit the image.
        """
        ...


@runtime_checkable
class KeypointDataset(LabelledDataset, Protocol):
    """A data set with labels of points, which declares what they are.

    Attributes:
        keypoints: The points of each label of kind points or instance points, by its name.
    """

    @property
    def keypoints(self) -> Mapping[str, KeypointSpec]: ...


def keypoints_of(data: LabelledDataset) -> Mapping[str, KeypointSpec]:
    """Return the points of each label of a data set, none if it does not declare them."""
    return data.keypoints if isinstance(data, KeypointDataset) else {}


def split_names(split: str) -> tuple[str, ...]:
    """Return the names that a split has in data sets: "val" may also be named "valid" or "validation"."""
    return (split, "valid", "validation") if split == "val" else (split,)


def find_split(folder: Path, split: str, layout: str) -> Path:
    """Return the folder of a split, by one of its names.

    Args:
        folder: The folder of the splits.
        split: See `split_names`.
        layout: The files of the data set, for the error.

    Raises:
        BrickInputError: There is none.
    """
    names = split_names(split)
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise BrickInputError(str(folder), f"a folder {' or '.join(names)}", "none", f"Layout: {layout}.")
