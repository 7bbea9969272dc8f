"""Handwritten digits at random scales, rotations and slants (the extra `train`)."""

from __future__ import annotations

import math
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from brickyard.data.synthetic.backgrounds import Split
from brickyard.errors import MissingExtraError

_FOLDS = 10  # of each class's images, one fold is for validation and one for the test
_CELLS, _MARGIN = 8, 2  # pixels of an original's side, and of the padding in which strokes fade out
_UPSAMPLING = 4  # so that strokes stay smooth when a digit is rotated


def digits_of(split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Load the handwritten digits of a split; no image is in two splits.

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
    # The fold of each image, by its position among the images of its class.
    fold = (np.cumsum(digits[:, None] == np.arange(10), axis=0) - 1)[np.arange(len(digits)), digits] % _FOLDS
    selected = {"train": fold < _FOLDS - 2, "val": fold == _FOLDS - 2, "test": fold == _FOLDS - 1}[split]
    return bunch.images[selected].astype(np.uint8), digits[selected]


@final
class Glyph(NamedTuple):
    """The shape of a handwritten digit.

    Attributes:
        ink: The ink coverage of each pixel, (h, w) in [0, 1] without empty rows or columns at the edges.
        digit: 0 to 9.
        corners: (4, 2), x and y in pixels of `ink`, of the rectangle around the digit as it was written, turned and
            slanted with it: top left, top right, bottom right, bottom left. Some may lie outside of `ink`.
        height: The height in pixels that the digit had before it was stretched, slanted and turned.
    """

    ink: npt.NDArray[np.float32]
    digit: int
    corners: npt.NDArray[np.float32]
    height: float


@final
class Glyphs:
    """Generate random shapes of handwritten digits.

    Args:
        images: (N, 8, 8), 0 for paper to 16 for ink.
        digits: (N,), 0 to 9.
        min_height: The smallest height of a digit in pixels, before it is rotated.
        max_height: The largest height.
    """

    def __init__(
        self, images: npt.NDArray[np.uint8], digits: npt.NDArray[np.int64], min_height: float, max_height: float
    ) -> None:
        self.digits = digits
        self.min_height, self.max_height = min_height, max_height
        self._images = [_upsampled(image) for image in images]
        darkest = [np.asarray(image) for image in self._images]  # of each row and of each column
        self._profiles = [(pixels.max(axis=1), pixels.max(axis=0)) for pixels in darkest]

    def __call__(self, rng: np.random.Generator) -> Glyph:
        """Generate one digit."""
        index = rng.integers(len(self.digits))
        image = self._images[index]
        digit_height = math.exp(rng.uniform(math.log(self.min_height), math.log(self.max_height)))
        scale = digit_height / (_CELLS * _UPSAMPLING)
        # From pixels of `image` to those of the glyph, both relative to the center: x, y -> a x + b y, c x + d y.
        a, b, c, d = (scale * entry for entry in _transform(rng))
        reach = (_CELLS + 2) * _UPSAMPLING  # the extent of the digit, with a cell for its soft edge
        width, height = math.ceil((abs(a) + abs(b)) * reach), math.ceil((abs(c) + abs(d)) * reach)
        area, center = a * d - b * c, image.width / 2
        forward = np.array([[a, b], [c, d]])
        a, b, c, d = d / area, -b / area, -c / area, a / area  # its inverse
        inverse = (a, b, center - (a * width + b * height) / 2, c, d, center - (c * width + d * height) / 2)
        glyph = image.transform((width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
        level, softness = (
            rng.uniform(110, 135),
            rng.uniform(50, 110),
        )  # of 255: the threshold of ink, and the width of its ramp
        ink = (np.asarray(glyph, dtype=np.float32) - np.float32(level)) / np.float32(softness) + np.float32(0.5)
        np.clip(ink, 0, 1, out=ink)
        rows, columns = np.flatnonzero(ink.max(axis=1)), np.flatnonzero(ink.max(axis=0))
        corners = (_corners(*self._profiles[index], level) - center) @ forward.T + (width / 2, height / 2)
        return Glyph(
            ink=ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1],
            digit=int(self.digits[index]),
            corners=(corners - (columns[0], rows[0])).astype(np.float32),
            height=digit_height,
        )


def _corners(rows: npt.NDArray[np.uint8], columns: npt.NDArray[np.uint8], level: float) -> npt.NDArray[np.int64]:
    """Return the corners (4, 2), x and y, of the rectangle around a digit, clockwise from the top left.

    Args:
        rows: The darkest pixel of each row.
        columns: The darkest pixel of each column.
        level: The threshold of ink.
    """
    ys, xs = np.flatnonzero(rows >= level), np.flatnonzero(columns >= level)
    left, top, right, bottom = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _upsampled(image: npt.NDArray[np.uint8]) -> Image.Image:
    """Convert an image (8, 8), 0 to 16, to a smooth greyscale image, 48x48, with padding."""
    padded = Image.fromarray(np.pad(image * np.float32(255 / 16), _MARGIN).round().astype(np.uint8))
    side = padded.width * _UPSAMPLING
    return padded.resize((side, side), Image.Resampling.BICUBIC)


def _transform(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return a random stretch, slant and rotation as a matrix, row by row; rotations are too small to make a 6 a 9."""
    angle, slant, stretch = rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2), math.exp(rng.uniform(-0.15, 0.15))
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * stretch, cos * slant - sin / stretch, sin * stretch, sin * slant + cos / stretch
