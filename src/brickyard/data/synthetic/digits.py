"""Digit scenes: a small data set with labels for three tasks, generated on the fly (the extra `train`)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as as_index
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from brickyard.data.label_kinds import LabelKind
from brickyard.data.objects import OBJECT_KINDS
from brickyard.data.synthetic.backgrounds import Backgrounds, Split, photos_of
from brickyard.data.synthetic.glyphs import Glyphs, digits_of
from brickyard.errors import BrickInputError, UnknownNameError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_MIN_SIZE = 48  # pixels; the smallest digits of a smaller image would be illegible
_TRIES = 24  # random positions that are tried for a digit
_MIN_VISIBLE = 0.8  # the fraction of a digit's pixels that later digits must not cover
_MAX_OVERLAP = 0.06  # the fraction of the rectangle around a digit that earlier digits may take
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_NAMES = tuple("0123456789")


@final
class DigitScenes(Dataset[dict[str, Any]]):
    """Handwritten digits on crops of photos, with labels for `cls` (multi-label), `seg` and `det`.

    The digits are scikit-learn's, the photos scikit-image's; both are part of their wheels. Size (a sixth to a half of
    the image), rotation, slant, color and opacity of each digit are random. No digit image and no photo is in two
    splits. A scene depends on `seed`, `split` and its index only.

    Args:
        split: "train", "val" or "test".
        length: The number of scenes; the first ones are the same for any length.
        image_size: The side of a scene in pixels, 48 or more.
        seed: The seed of the scenes, which share digits and photos; not negative.
        digits: The smallest and the largest number of digits in a scene; there are fewer where none fits any more.

    Raises:
        UnknownNameError: The split is unknown.
        BrickInputError: A number is out of range.
        MissingExtraError: The extra `train` is not installed.
    """

    labels: ClassVar[dict[str, tuple[str, ...]]] = {"cls": _NAMES, "seg": ("background", *_NAMES), "det": _NAMES}
    kinds: ClassVar[dict[str, LabelKind]] = OBJECT_KINDS

    def __init__(
        self, split: Split, length: int, *, image_size: int = 96, seed: int = 0, digits: tuple[int, int] = (1, 5)
    ) -> None:
        if split not in _SPLITS:
            raise UnknownNameError("split", split, _SPLITS)
        _check("length", length >= 0, "0 or more", length)
        _check("image_size", image_size >= _MIN_SIZE, f"{_MIN_SIZE} or more", image_size)
        _check("seed", seed >= 0, "0 or more", seed)
        _check("digits", 0 <= digits[0] <= digits[1], "(min, max) with 0 <= min <= max", digits)
        self.split, self.length, self.image_size, self.seed, self.digits = split, length, image_size, seed, digits
        self._backgrounds = Backgrounds(photos_of(split), image_size)
        self._glyphs = Glyphs(*digits_of(split), min_height=image_size / 6, max_height=image_size / 2)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Generate one scene.

        Args:
            index: The index of the scene, in [-length, length).

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (10,) int64, 1 for each digit that is present, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to 10 for the digit that is visible at a pixel.
            targets/det: boxes (M, 4) float32, xyxy in pixels, tight around the visible pixels of a digit, and labels
                (M,) int64, 0 to 9. At least 80% of each digit is visible.

        Raises:
            IndexError: The index is out of range.
        """
        number = as_index(index)
        if not -self.length <= number < self.length:
            raise IndexError(f"Index {number} is out of range for {self.length} scenes.")
        rng = np.random.default_rng((self.seed, _SPLITS.index(self.split), number % self.length))
        image, digits, owner = self._scene(rng)
        classes = np.array([0, *(digit + 1 for digit in digits)], dtype=np.int64)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "targets/cls": torch.tensor([int(digit in digits) for digit in range(len(_NAMES))]),
            "targets/seg": torch.from_numpy(classes[owner]),
            "targets/det": {"boxes": _boxes(owner, len(digits)), "labels": torch.tensor(digits, dtype=torch.int64)},
        }

    def _scene(self, rng: np.random.Generator) -> tuple[Pixels, list[int], Pixels]:
        """Return the image (H, W, 3), its digits, and the number of each pixel's digit (H, W) from 1, 0 for none."""
        image = np.array(self._backgrounds(rng))
        owner = np.zeros(image.shape[:2], dtype=np.uint8)
        digits: list[int] = []
        areas = [0]  # pixels of each digit when it was drawn; 0 for the background
        for _ in range(rng.integers(self.digits[0], self.digits[1] + 1)):
            ink, digit = self._glyphs(rng)
            shape = ink >= 0.5
            window = _free_window(owner, areas, shape, rng)
            if window is None:
                continue
            opacity = np.float32(rng.uniform(0.6, 1.0))
            below = image[window].astype(np.float32)
            color = _legible_color(below, opacity, rng)
            below += (ink * opacity)[..., None] * (color - below)
            image[window] = below + np.float32(0.5)
            digits.append(digit)
            owner[window][shape] = len(digits)
            areas.append(int(np.count_nonzero(shape)))
        return image, digits, owner


def _free_window(
    owner: Pixels, areas: Sequence[int], shape: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Find a window (h, w) of the scene where a digit covers little of the earlier ones, None if there is none.

    Args:
        owner: (H, W), the number of each pixel's digit, 0 for none.
        areas: N + 1 numbers, 0 for the background, then the pixels of each digit when it was drawn.
        shape: (h, w), the pixels of the digit.
        rng: The source of the positions.
    """
    height, width = shape.shape
    for _ in range(_TRIES):
        top = int(rng.integers(owner.shape[0] - height + 1))
        left = int(rng.integers(owner.shape[1] - width + 1))
        window = slice(top, top + height), slice(left, left + width)
        below = owner[window]
        taken = np.count_nonzero(below)
        if taken == 0:
            return window
        if taken <= _MAX_OVERLAP * below.size:
            remaining = np.bincount(owner.ravel(), minlength=len(areas)) - np.bincount(
                below[shape], minlength=len(areas)
            )
            if (remaining >= _MIN_VISIBLE * np.array(areas))[1:].all():
                return window
    return None


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


def _boxes(owner: Pixels, count: int) -> Tensor:
    """Return the boxes (M, 4) around the pixels (H, W) of the digits 1 to M."""
    boxes = []
    for number in range(1, count + 1):
        mask = owner == number
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def _check(name: str, valid: bool, expected: str, value: object) -> None:
    if not valid:
        raise BrickInputError(f"DigitScenes, {name}", expected, repr(value))
