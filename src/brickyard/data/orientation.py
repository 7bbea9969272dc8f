"""Read the images of data sets upright by their EXIF orientation, and move their labels along."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.data.geometry import horizontal_flip, transpose, vertical_flip
from brickyard.data.images import IMAGE_HINT, check_size, read_image
from brickyard.data.label_kinds import KIND_RULES, LabelKind
from brickyard.data.reading import damage_as_input_error
from brickyard.errors import BrickInputError


class _Orientation(NamedTuple):
    """The steps, in this order, that turn a stored image upright."""

    transpose: bool
    flip_horizontally: bool
    flip_vertically: bool


_UPRIGHT = _Orientation(False, False, False)
_BY_EXIF = {
    2: _Orientation(False, True, False),
    3: _Orientation(False, True, True),
    4: _Orientation(False, False, True),
    5: _Orientation(True, False, False),
    6: _Orientation(True, True, False),
    7: _Orientation(True, True, True),
    8: _Orientation(True, False, True),
}


@final
@dataclass(frozen=True)
class OrientedImage:
    """An image that was turned upright by its EXIF orientation, and how labels of the stored pixels turn with it.

    Attributes:
        image: (3, H, W) uint8.
        size: (height, width) of the pixels that the labels refer to.
        orientation: The steps from those pixels to the ones of `image`.
    """

    image: tv_tensors.Image
    size: tuple[int, int]
    orientation: _Orientation

    def label(self, kind: LabelKind, label: Any) -> Any:
        """Move a label of any kind from the labelled pixels to those of `image`.

        Raises:
            BrickInputError: The label has not the form of its kind.
        """
        rules = KIND_RULES[kind]
        parts = rules.wrap(label, self.size, "OrientedImage")
        return rules.unwrap(label, {name: self._upright(value) for name, value in parts.items()})

    def mask(self, classes: Tensor) -> tv_tensors.Mask:
        """Move a mask: classes (h, w) of the labelled pixels to those of `image`, (H, W)."""
        return self.label(LabelKind.MASK, classes)

    def boxes(self, corners: Tensor) -> tv_tensors.BoundingBoxes:
        """Move boxes (M, 4), xyxy in labelled pixels, to the pixels of `image`."""
        return self.label(LabelKind.BOXES, {"boxes": corners})["boxes"]

    def _upright(self, value: Tensor) -> Tensor:
        value = transpose(value) if self.orientation.transpose else value
        value = horizontal_flip(value) if self.orientation.flip_horizontally else value
        return vertical_flip(value) if self.orientation.flip_vertically else value


def check_header(file: Path, labelled_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Check an image by its header, without decoding its pixels.

    Args:
        file: The image file.
        labelled_size: See `read_oriented`.

    Returns:
        (height, width) of the pixels that the labels refer to.

    Raises:
        BrickInputError: There is no image, it is too small or too narrow, or it has another size than `labelled_size`.
    """
    stored, orientation = _read_header(file)
    check_size(stored[::-1], str(file))
    upright = stored[::-1] if orientation.transpose else stored
    return _labelled(file, stored, upright, labelled_size)


def _read_header(file: Path) -> tuple[tuple[int, int], _Orientation]:
    """Return (height, width) of an image as it is stored, and its orientation."""
    with damage_as_input_error(str(file), "an image", IMAGE_HINT):
        if not file.is_file():
            raise BrickInputError(str(file), "an image", "no regular file" if file.exists() else "no such file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                exif = opened.getexif().get(ExifTags.Base.Orientation, 1)
                return (opened.height, opened.width), _BY_EXIF.get(exif, _UPRIGHT)


def _labelled(
    file: Path, stored: tuple[int, int], upright: tuple[int, int], labelled_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Return the size that labels refer to, of the two that an image has."""
    if labelled_size in (None, stored):
        return stored
    if labelled_size == upright:
        return upright
    expected = f"{labelled_size[1]}x{labelled_size[0]} pixels, as its labels say"
    raise BrickInputError(str(file), expected, f"{stored[1]}x{stored[0]}", "Do the labels belong to this image?")


def read_oriented(file: Path, labelled_size: tuple[int, int] | None = None) -> OrientedImage:
    """Read an image whose labels refer to its pixels as they are stored, as in torchvision and the COCO API.

    Args:
        file: The image file.
        labelled_size: (height, width) of the image according to its labels, None if they do not say. Where only the
            upright image has this size, the labels are taken to refer to the upright image.

    Raises:
        BrickInputError: The image cannot be read, or has another size than `labelled_size`.
    """
    image = tv_tensors.Image(F.pil_to_tensor(read_image(file)))
    size = (int(image.shape[-2]), int(image.shape[-1]))
    stored, orientation = _read_header(file)
    labelled = _labelled(file, stored, size, labelled_size)
    return OrientedImage(image, labelled, orientation if labelled == stored else _UPRIGHT)


def read_class_map(file: Path) -> Tensor:
    """Read a PNG with one class per pixel: (H, W) int64, of a palette image the indices, not the colors.

    Raises:
        BrickInputError: The file cannot be read, or has several channels.
    """
    hint = "Does the file exist, and is it complete?"
    with damage_as_input_error(str(file), "a mask", hint), Image.open(file) as opened:
        values = np.array(opened)
    if values.ndim != 2:
        hint = "Save it as a palette or greyscale image."
        raise BrickInputError(str(file), "a mask with one class per pixel", f"{values.shape[2]} channels", hint)
    return torch.from_numpy(values.astype(np.int64))
