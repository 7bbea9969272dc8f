"""Backgrounds for synthetic scenes: crops of scikit-image's photos, mixed and in other colours (the extra `train`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Literal, final

import numpy as np
from PIL import Image

from brickyard.errors import MissingExtraError

Split = Literal["train", "val", "test"]

# Only what lies in scikit-image's wheel, so that nothing is downloaded. One photo of the stereo pair: the other one
# shows the same motorcycle. Without the two with writing on them: they may show digits.
_PHOTOS: dict[Split, tuple[str, ...]] = {
    "train": (
        "astronaut.png",
        "cell.png",
        "clock_motion.png",
        "coins.png",
        "grass.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "microaneurysms.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "val": ("brick.png", "chelsea.png", "moon.png"),
    "test": ("camera.png", "coffee.png", "gravel.png"),
}
_SIDE = 400  # pixels of a photo's longer side at most: larger ones take time and show no more at a scene's size
_LEAST_CROP = 80  # pixels of a crop's longer side at least: a smaller one is blurred
_TURNED = (None, *Image.Transpose)  # as it is, or one of the seven ways that a square can lie otherwise
# Colours turn about the axis of greys by _GREY + cos(turn) _OFF_GREY + sin(turn) _ACROSS_GREY (Rodrigues' formula).
_GREY = np.full((3, 3), 1 / 3)
_OFF_GREY = np.eye(3) - _GREY
_ACROSS_GREY = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3)


def photos_of(split: Split) -> list[Image.Image]:
    """The photos of a split, in RGB; no photo is in two splits.

    Raises:
        MissingExtraError: The extra `train` is not installed.
    """
    try:
        folder = files("skimage") / "data"
    except ImportError:
        raise MissingExtraError("Making digit scenes", "train") from None
    photos = []
    for name in _PHOTOS[split]:
        with (folder / name).open("rb") as file, Image.open(file) as photo:
            photo.thumbnail((_SIDE, _SIDE))
            photos.append(photo.convert("RGB"))
    return photos


@final
class Backgrounds:
    """Random backgrounds: a crop of a photo, or two of them in one another, in other colours.

    Args:
        photos: What to cut from, in RGB.
        size: Pixels of a background's side.
    """

    def __init__(self, photos: Sequence[Image.Image], size: int) -> None:
        self.photos = tuple(photos)
        self.size = size

    def __call__(self, rng: np.random.Generator) -> Image.Image:
        """Make one, in RGB."""
        picture = self._crop(rng)
        if rng.random() < 0.25:
            return picture
        if rng.random() < 0.5:
            return Image.blend(picture, self._crop(rng), rng.uniform(0.25, 0.75))
        return Image.composite(self._crop(rng), picture, self._disc(rng))

    def _crop(self, rng: np.random.Generator) -> Image.Image:
        """A crop of any size and place, perhaps turned over, in other colours."""
        photo = self.photos[rng.integers(len(self.photos))]
        whole = min(photo.size)
        side = math.exp(rng.uniform(math.log(_LEAST_CROP), math.log(whole)))
        width, height = side * rng.uniform(0.7, 1.0), side * rng.uniform(0.7, 1.0)
        left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
        box = (left, top, left + width, top + height)
        crop = photo.resize((self.size, self.size), Image.Resampling.BILINEAR, box, reducing_gap=1.0)
        if turned := rng.integers(len(_TURNED)):
            crop = crop.transpose(_TURNED[turned])
        return crop.convert("RGB", _recolouring(rng))

    def _disc(self, rng: np.random.Generator) -> Image.Image:
        """A white disc with a soft or sharp edge on black; the edge of a large one is nearly straight."""
        axis = np.arange(self.size, dtype=np.float32)
        row, column = rng.uniform(-0.3, 1.3, size=2).astype(np.float32) * self.size
        distance = np.sqrt((axis[:, None] - row) ** 2 + (axis - column) ** 2)
        radius, edge = np.float32(rng.uniform(0.2, 1.0) * self.size), np.float32(np.exp(rng.uniform(0, 4)))
        return Image.fromarray((np.clip((radius - distance) / edge + 0.5, 0, 1) * 255).astype(np.uint8))


def _recolouring(rng: np.random.Generator) -> tuple[float, ...]:
    """Other colours, as Pillow's matrix (3, 4) row by row, for pixels of 0 to 255.

    The brightness gets another contrast and may be inverted, the hue is turned, and brightness gets a tint, so that a
    grey photo has colours too.
    """
    contrast = rng.uniform(0.5, 1.1) * (1 if rng.random() < 0.5 else -1)
    saturation, turn = rng.uniform(0.2, 1.4), rng.uniform(0, 2 * math.pi)
    tint = rng.normal(0, 0.25, size=3)
    hue = saturation * (math.cos(turn) * _OFF_GREY + math.sin(turn) * _ACROSS_GREY)
    matrix = contrast * _GREY + hue + (tint - tint.sum() / 3)[:, None] / 3
    middle = rng.uniform(0.3, 0.7) + rng.normal(0, 0.06, size=3)  # what a medium grey becomes
    offset = 255 * (middle - 0.5 * matrix.sum(axis=1))
    return tuple(number for row, last in zip(matrix.tolist(), offset.tolist(), strict=True) for number in (*row, last))
