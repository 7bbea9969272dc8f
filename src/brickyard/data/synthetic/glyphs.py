"""Handwritten digits at any size, turned, slanted and smooth (the extra `train`)."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import numpy.typing as npt
from PIL import Image

from brickyard.data.synthetic.backgrounds import Split
from brickyard.errors import MissingExtraError

_ONE_IN = 10  # of each class's images, one in ten is for validation and one for the test
_CELLS, _MARGIN = 8, 2  # pixels of an original's side, and of the empty frame that lets strokes end smoothly
_FINER = 4  # times, so that a picture that is turned has smooth strokes


def digits_of(split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The handwritten digits of a split; no image is in two splits.

    Returns:
        Images (N, 8, 8), 0 for paper to 16 for ink, and their digits (N,), 0 to 9.

    Raises:
        MissingExtraError: The extra `train` is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("The digits of digit scenes", "train") from None
    bunch = load_digits()
    digits = bunch.target.astype(np.int64)
    # The place of each image among those of its class.
    place = (np.cumsum(digits[:, None] == np.arange(10), axis=0) - 1)[np.arange(len(digits)), digits] % _ONE_IN
    chosen = {"train": place < _ONE_IN - 2, "val": place == _ONE_IN - 2, "test": place == _ONE_IN - 1}[split]
    return bunch.images[chosen].astype(np.uint8), digits[chosen]


@final
class Glyphs:
    """Random shapes of handwritten digits.

    Args:
        images: (N, 8, 8), 0 for paper to 16 for ink.
        digits: (N,), 0 to 9.
        least: Pixels of a digit's height at least, before it is turned.
        most: Pixels of its height at most.
    """

    def __init__(self, images: npt.NDArray[np.uint8], digits: npt.NDArray[np.int64], least: float, most: float) -> None:
        self.digits = digits
        self.least, self.most = least, most
        self._pictures = [_finer(image) for image in images]

    def __call__(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], int]:
        """Make one.

        Returns:
            How much of each pixel is ink, (h, w) in [0, 1] without empty rows or columns at its edges, and the digit.
        """
        index = rng.integers(len(self.digits))
        picture = self._pictures[index]
        scale = math.exp(rng.uniform(math.log(self.least), math.log(self.most))) / (_CELLS * _FINER)
        # From pixels of `picture` to those that are drawn, both about the centre: x, y -> a x + b y, c x + d y.
        a, b, c, d = (scale * part for part in _transform(rng))
        reach = (_CELLS + 2) * _FINER  # as far as the digit goes, with a cell for its soft edge
        width, height = math.ceil((abs(a) + abs(b)) * reach), math.ceil((abs(c) + abs(d)) * reach)
        area, center = a * d - b * c, picture.width / 2
        a, b, c, d = d / area, -b / area, -c / area, a / area  # and back
        back = (a, b, center - (a * width + b * height) / 2, c, d, center - (c * width + d * height) / 2)
        drawn = picture.transform((width, height), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
        level, softness = rng.uniform(110, 135), rng.uniform(50, 110)  # of 255: where a stroke ends, how softly
        ink = (np.asarray(drawn, dtype=np.float32) - np.float32(level)) / np.float32(softness) + np.float32(0.5)
        np.clip(ink, 0, 1, out=ink)
        rows, columns = np.flatnonzero(ink.max(axis=1)), np.flatnonzero(ink.max(axis=0))
        return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(self.digits[index])


def _finer(image: npt.NDArray[np.uint8]) -> Image.Image:
    """(8, 8), 0 to 16 -> a smooth grey picture, 48x48, with an empty frame."""
    framed = Image.fromarray(np.pad(image * np.float32(255 / 16), _MARGIN).round().astype(np.uint8))
    side = framed.width * _FINER
    return framed.resize((side, side), Image.Resampling.BICUBIC)


def _transform(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random stretch, slant and turn, row by row; a digit is turned so little that a 6 stays a 6."""
    turn, slant, stretch = rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2), math.exp(rng.uniform(-0.15, 0.15))
    cos, sin = math.cos(turn), math.sin(turn)
    return cos * stretch, cos * slant - sin / stretch, sin * stretch, sin * slant + cos / stretch
