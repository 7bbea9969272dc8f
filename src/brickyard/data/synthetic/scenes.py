"""What the synthetic data sets have in common: a scene for each index, and how digits are painted."""

from __future__ import annotations

from abc import abstractmethod
from operator import index as as_index
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from brickyard.data.label_kinds import LabelKind
from brickyard.data.synthetic.backgrounds import Split
from brickyard.errors import BrickInputError, UnknownNameError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Window = tuple[slice, slice]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
DIGITS = tuple("0123456789")
# The key points of a digit, see `Glyph.corners`, and those that are exchanged where an image is flipped.
CORNERS = ("top left", "top right", "bottom right", "bottom left")
CORNER_FLIP_PAIRS = ((0, 1), (3, 2))
CORNER_SKELETON = ((0, 1), (1, 2), (2, 3), (3, 0))
_MIN_SIZE = 48  # pixels; the smallest digits of a smaller image would be illegible
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


class Scenes(Dataset[dict[str, Any]]):
    """Images that are generated on the fly; each depends on `seed`, `split` and its index only.

    Args:
        split: "train", "val" or "test".
        length: The number of images; the first ones are the same for any length.
        image_size: The side of an image in pixels, or (H, W); 48 or more.
        seed: The seed of the images; not negative.

    Attributes:
        labels, kinds: See `LabelledDataset`.
        size: (H, W) of an image in pixels.
        is_square: Whether images are square.

    Raises:
        UnknownNameError: The split is unknown.
        BrickInputError: A number is out of range.
    """

    labels: ClassVar[dict[str, tuple[str, ...]]]
    kinds: ClassVar[dict[str, LabelKind]]
    is_square: ClassVar[bool] = True

    def __init__(self, split: Split, length: int, image_size: int | tuple[int, int], seed: int) -> None:
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.check_argument("length", length >= 0, "0 or more", length)
        self.check_argument("image_size", min(size) >= _MIN_SIZE, f"{_MIN_SIZE} or more", image_size)
        self.check_argument(
            "image_size", size[0] == size[1] or not self.is_square, "one side: scenes are square", image_size
        )
        self.check_argument("seed", seed >= 0, "0 or more", seed)
        self.split, self.length, self.size, self.seed = split, length, size, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Generate one image with its labels.

        Args:
            index: The index of the image, in [-length, length).

        Raises:
            IndexError: The index is out of range.
        """
        number = as_index(index)
        if not -self.length <= number < self.length:
            raise IndexError(f"Index {number} is out of range for {self.length} scenes.")
        return self.generate(np.random.default_rng((self.seed, SPLITS.index(self.split), number % self.length)))

    @abstractmethod
    def generate(self, rng: np.random.Generator) -> dict[str, Any]:
        """Generate one image with its labels from random numbers."""

    def check_argument(self, name: str, valid: bool, expected: str, value: object) -> None:
        """Raise `BrickInputError` for an argument that is not valid."""
        if not valid:
            raise BrickInputError(f"{type(self).__name__}, {name}", expected, repr(value))


def paint(image: Pixels, window: Window, ink: Floats, rng: np.random.Generator) -> None:
    """Paint ink (h, w) in [0, 1] into a window of an image (H, W, 3), in a random color that is legible there."""
    opacity = np.float32(rng.uniform(0.6, 1.0))
    below = image[window].astype(np.float32)
    color = _legible_color(below, opacity, rng)
    below += (ink * opacity)[..., None] * (color - below)
    image[window] = below + np.float32(0.5)


def to_tensor(image: Pixels) -> Tensor:
    """Return an image (H, W, 3) as a tensor (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def key_points(points: Floats, size: tuple[int, int]) -> Tensor:
    """Return points (..., K, 2), in pixels, as key points (..., K, 3): those outside of the image are (0, 0, 0)."""
    inside = ((points >= 0) & (points <= (size[1], size[0]))).all(axis=-1, keepdims=True)
    visibility = np.full_like(points[..., :1], 2)
    return torch.from_numpy(np.concatenate([points, visibility], axis=-1) * inside)


def _legible_color(below: Floats, opacity: np.float32, rng: np.random.Generator) -> Floats:
    """Return a random color (3,) that is clearly brighter or darker than the textured background (h, w, 3).

    Colors of equal brightness are hard to tell from each other, whatever their hues. All values are in [0, 255].
    """
    brightness = below.reshape(-1, 3) @ _LUMA
    colors = rng.random((16, 3), dtype=np.float32) * np.float32(255)
    contrast = opacity * np.abs(colors @ _LUMA - brightness.mean())
    legible = np.flatnonzero(contrast >= 50 + 0.75 * brightness.std())
    color: Floats = colors[legible[0] if len(legible) else contrast.argmax()]
    return color
