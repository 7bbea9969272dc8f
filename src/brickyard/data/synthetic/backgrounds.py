"""Backgrounds for synthetic scenes: blended and recolored crops of scikit-image's photos (the extra `train`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal, final

import numpy as np
from PIL import Image

from brickyard.errors import MissingExtraError

Split = Literal["train", "val", "test"]

# Only files of scikit-image's wheel, so that nothing is downloaded. One photo of the stereo pair, since both show the
# same motorcycle. None with writing on it, which may contain digits.
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
_MAX_SIDE = 400  # pixels of a photo's longer side; larger photos take time without more detail at a scene's size
_MIN_CROP = 80  # pixels of a crop's longer side; a smaller one is blurred
_TRANSPOSES = (None, *Image.Transpose)  # the eight symmetries of a square
# Hues rotate around the grey axis by _GREY + cos(angle) _OFF_GREY + sin(angle) _ACROSS_GREY (Rodrigues' formula).
_GREY = np.full((3, 3), 1 / 3)
_OFF_GREY = np.eye(3) - _GREY
_ACROSS_GREY = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3)


def photos_of(split: Split) -> list[Image.Image]:
    """Load the photos of a split as RGB; no photo is in two splits.

    Raises:
        MissingExtraError: The extra `train` is not installed.
    """
    try:
        files("skimage")
    except ImportError:
        raise MissingExtraError("Generating digit scenes", "train") from None
    return [_small_photo(name) for name in _PHOTOS[split]]


@cache
def _small_photo(name: str) -> Image.Image:
    with (files("skimage") / "data" / name).open("rb") as file, Image.open(file) as photo:
        photo.thumbnail((_MAX_SIDE, _MAX_SIDE))
        return photo.convert("RGB")


@final
class Backgrounds:
    """Generate random backgrounds: a recolored crop of a photo, or two of them blended or composed.

    Args:
        photos: The photos to crop, in RGB.
        size: The side of a background in pixels.
    """

    def __init__(self, photos: Sequence[Image.Image], size: int) -> None:
        self.photos = tuple(photos)
        self.size = size

    def __call__(self, rng: np.random.Generator) -> Image.Image:
        """Generate one background, in RGB."""
        background = self._crop(rng)
        if rng.random() < 0.25:
            return background
        if rng.random() < 0.5:
            return Image.blend(background, self._crop(rng), rng.uniform(0.25, 0.75))
        return Image.composite(self._crop(rng), background, self._disc(rng))

    def _crop(self, rng: np.random.Generator) -> Image.Image:
        """Crop a photo at a random position and scale, transpose and recolor it."""
        photo = self.photos[rng.integers(len(self.photos))]
        whole = min(photo.size)
        side = math.exp(rng.uniform(math.log(_MIN_CROP), math.log(whole)))
        width, height = side * rng.uniform(0.7, 1.0), side * rng.uniform(0.7, 1.0)
        left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
        box = (left, top, left + width, top + height)
        crop = photo.resize((self.size, self.size), Image.Resampling.BILINEAR, box, reducing_gap=1.0)
        if index := rng.integers(len(_TRANSPOSES)):
            crop = crop.transpose(_TRANSPOSES[index])
        return crop.convert("RGB", _color_matrix(rng))

    def _disc(self, rng: np.random.Generator) -> Image.Image:
        """Draw a white disc with a soft or sharp edge on black; the edge of a large disc is nearly straight."""
        axis = np.arange(self.size, dtype=np.float32)
        row, column = rng.uniform(-0.3, 1.3, size=2).astype(np.float32) * self.size
        distance = np.sqrt((axis[:, None] - row) ** 2 + (axis - column) ** 2)
        radius, edge = np.float32(rng.uniform(0.2, 1.0) * self.size), np.float32(np.exp(rng.uniform(0, 4)))
        return Image.fromarray((np.clip((radius - distance) / edge + 0.5, 0, 1) * 255).astype(np.uint8))


def _color_matrix(rng: np.random.Generator) -> tuple[float, ...]:
    """Return a random color transform as Pillow's matrix (3, 4), row by row, for pixels in [0, 255].

    Contrast is scaled and may be inverted, the hue is rotated, and brightness is tinted, so that a grey photo becomes
    colored, too.
    """
    contrast = rng.uniform(0.5, 1.1) * (1 if rng.random() < 0.5 else -1)
    saturation, angle = rng.uniform(0.2, 1.4), rng.uniform(0, 2 * math.pi)
    tint = rng.normal(0, 0.25, size=3)
    hue = saturation * (math.cos(angle) * _OFF_GREY + math.sin(angle) * _ACROSS_GREY)
    matrix = contrast * _GREY + hue + (tint - tint.sum() / 3)[:, None] / 3
    middle = rng.uniform(0.3, 0.7) + rng.normal(0, 0.06, size=3)  # the color that medium grey is mapped to
    offset = 255 * (middle - 0.5 * matrix.sum(axis=1))
    return tuple(value for row, last in zip(matrix.tolist(), offset.tolist(), strict=True) for value in (*row, last))
