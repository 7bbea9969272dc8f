"""Pictures of data sets, upright as prediction reads them, and their labels turned along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its name everywhere

from brickyard.data.images import read_image
from brickyard.errors import BrickInputError

# How a stored picture becomes upright, by its EXIF orientation: rows and columns change places, then left and right,
# then top and bottom.
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_AS_IT_IS = (False, False, False)


@final
@dataclass(frozen=True)
class OrientedImage:
    """A picture turned upright by its EXIF orientation, and how to turn what was drawn on it before.

    Attributes:
        image: (3, H, W) uint8.
        size: (height, width) of the pixels that the labels refer to.
        turn: Whether rows and columns, left and right, top and bottom change places, in this order.
    """

    image: tv_tensors.Image
    size: tuple[int, int]
    turn: tuple[bool, bool, bool]

    def mask(self, classes: Tensor) -> tv_tensors.Mask:
        """The classes (h, w) of the labelled pixels -> those of `image`, (H, W)."""
        return self._mirrored(tv_tensors.Mask(classes.T if self.turn[0] else classes))

    def boxes(self, corners: Tensor) -> tv_tensors.BoundingBoxes:
        """Boxes (M, 4), (x1, y1, x2, y2) in labelled pixels -> in those of `image`."""
        corners = corners[:, [1, 0, 3, 2]] if self.turn[0] else corners
        return self._mirrored(tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=self.image.shape[-2:]))

    def _mirrored(self, labels: Tensor) -> Tensor:
        _, sideways, upside_down = self.turn
        labels = F.horizontal_flip(labels) if sideways else labels
        return F.vertical_flip(labels) if upside_down else labels


def read_oriented(file: Path, labelled_size: tuple[int, int] | None = None) -> OrientedImage:
    """Read a picture whose labels refer to its pixels as they are stored, as torchvision and the COCO API read them.

    Args:
        file: The picture.
        labelled_size: (height, width) of the picture by its labels, None if they do not say. Where it fits the upright
            picture only, the labels are taken for those of the upright picture.

    Raises:
        BrickInputError: The picture cannot be read, or has another size than `labelled_size`.
    """
    image = tv_tensors.Image(F.pil_to_tensor(read_image(file)))
    size = (int(image.shape[-2]), int(image.shape[-1]))
    with Image.open(file) as opened:  # its head only
        turn = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1), _AS_IT_IS)
    stored = size[::-1] if turn[0] else size
    if labelled_size in (None, stored):
        return OrientedImage(image, stored, turn)
    if labelled_size == size:
        return OrientedImage(image, size, _AS_IT_IS)
    expected = f"{labelled_size[1]}x{labelled_size[0]} pixels, as its labels say"
    raise BrickInputError(str(file), expected, f"{stored[1]}x{stored[0]}", "Do labels and picture belong together?")


def read_class_map(file: Path) -> Tensor:
    """The classes (H, W) int64 of a PNG with one value a pixel; of a palette the index, not the colour.

    Raises:
        BrickInputError: It cannot be read, or has several channels.
    """
    try:
        with Image.open(file) as opened:
            values = np.array(opened)
    except Exception as error:  # a decoder may raise anything on a damaged file
        found = f"{type(error).__name__}: {error}"
        raise BrickInputError(str(file), "a mask", found, "Is it there, and complete?") from None
    if values.ndim != 2:
        hint = "Was it saved in colours?"
        raise BrickInputError(str(file), "a mask with one class a pixel", f"{values.shape[2]} channels", hint)
    return torch.from_numpy(values.astype(np.int64))
