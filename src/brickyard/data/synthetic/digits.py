"""Digit scenes: a small data set with labels for three tasks, made while it is read (the extra `train`)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as as_index
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from brickyard.data.synthetic.backgrounds import Backgrounds, Split, photos_of
from brickyard.data.synthetic.glyphs import Glyphs, digits_of
from brickyard.errors import BrickInputError, UnknownNameError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_LEAST_SIZE = 48  # pixels: the smallest digits of a smaller picture could not be read
_TRIES = 24  # places that are looked at for a digit
_VISIBLE = 0.8  # of a digit's pixels that later digits leave at least
_CROWDED = 0.06  # of the rectangle around a digit: so much of it may be earlier digits
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_NAMES = tuple("0123456789")


@final
class DigitScenes(Dataset[dict[str, Any]]):
    """Handwritten digits on crops of photos, with labels for `cls` (multi-label), `seg` and `det`.

    The digits are scikit-learn's, the photos scikit-image's; both lie in their wheels. Each digit has another size (a
    sixth to a half of the picture), turn, slant, colour and opacity. No digit's original and no photo is in two splits.
    A scene depends on `seed`, `split` and its index only.

    Args:
        split: "train", "val" or "test".
        length: How many scenes; the first ones are the same for any length.
        image_size: Pixels of a scene's side, 48 at least.
        seed: Another one makes other scenes of the same digits and photos; not negative.
        digits: How many a scene shall have, at least and at most. It has fewer where there is no room.

    Raises:
        UnknownNameError: There is no such split.
        BrickInputError: A number is out of its range.
        MissingExtraError: The extra `train` is not installed.
    """

    labels: ClassVar[dict[str, tuple[str, ...]]] = {"cls": _NAMES, "seg": ("background", *_NAMES), "det": _NAMES}

    def __init__(
        self, split: Split, length: int, *, image_size: int = 96, seed: int = 0, digits: tuple[int, int] = (1, 5)
    ) -> None:
        if split not in _SPLITS:
            raise UnknownNameError("split", split, _SPLITS)
        _check("length", length >= 0, "0 or more", length)
        _check("image_size", image_size >= _LEAST_SIZE, f"{_LEAST_SIZE} or more", image_size)
        _check("seed", seed >= 0, "0 or more", seed)
        _check("digits", 0 <= digits[0] <= digits[1], "(least, most) with 0 <= least <= most", digits)
        self.split, self.length, self.image_size, self.seed, self.digits = split, length, image_size, seed, digits
        self._backgrounds = Backgrounds(photos_of(split), image_size)
        self._glyphs = Glyphs(*digits_of(split), least=image_size / 6, most=image_size / 2)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make one scene.

        Args:
            index: In [-length, length).

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (10,) int64, 1 for each digit that is there, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to 10 for the digit that is seen at a pixel.
            targets/det: boxes (M, 4) float32, (x1, y1, x2, y2) in pixels, tight around the pixels of a digit that are
                seen in the mask, and labels (M,) int64, 0 to 9. At least 80% of each digit is seen.

        Raises:
            IndexError: The index is out of range.
        """
        place = as_index(index)
        if not -self.length <= place < self.length:
            raise IndexError(f"Scene {place} of {self.length}.")
        rng = np.random.default_rng((self.seed, _SPLITS.index(self.split), place % self.length))
        picture, owner, digits = self._scene(rng)
        classes = np.array([0, *(digit + 1 for digit in digits)], dtype=np.int64)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))),
            "targets/cls": torch.tensor([int(digit in digits) for digit in range(len(_NAMES))]),
            "targets/seg": torch.from_numpy(classes[owner]),
            "targets/det": {"boxes": _boxes(owner, len(digits)), "labels": torch.tensor(digits, dtype=torch.int64)},
        }

    def _scene(self, rng: np.random.Generator) -> tuple[Pixels, Pixels, list[int]]:
        """The picture (H, W, 3), the number of each pixel's digit (H, W), 0 for none, and the digits."""
        picture = np.array(self._backgrounds(rng))
        owner = np.zeros(picture.shape[:2], dtype=np.uint8)
        digits: list[int] = []
        areas = [0]  # pixels of each digit when it was new; of the background, nothing
        for _ in range(rng.integers(self.digits[0], self.digits[1] + 1)):
            ink, digit = self._glyphs(rng)
            shape = ink >= 0.5
            window = _free_window(owner, areas, shape, rng)
            if window is None:
                continue
            opacity = np.float32(rng.uniform(0.6, 1.0))
            below = picture[window].astype(np.float32)
            colour = _legible_colour(below, opacity, rng)
            below += (ink * opacity)[..., None] * (colour - below)
            picture[window] = below + np.float32(0.5)
            digits.append(digit)
            owner[window][shape] = len(digits)
            areas.append(int(np.count_nonzero(shape)))
        return picture, owner, digits


def _free_window(
    owner: Pixels, areas: Sequence[int], shape: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """A window (h, w) of the scene where a digit hides little of the earlier ones, or None where none is found.

    Args:
        owner: (H, W), the number of each pixel's digit, 0 for none.
        areas: N + 1 numbers, 0 for the background, then how many pixels each digit had when it was new.
        shape: (h, w), the pixels of the digit.
        rng: Where to look.
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
        if taken <= _CROWDED * below.size:
            left_over = np.bincount(owner.ravel(), minlength=len(areas)) - np.bincount(
                below[shape], minlength=len(areas)
            )
            if (left_over >= _VISIBLE * np.array(areas))[1:].all():
                return window
    return None


def _legible_colour(below: Floats, opacity: np.float32, rng: np.random.Generator) -> Floats:
    """A random colour (3,) that is clearly brighter or darker than what is below, (h, w, 3), however restless that is.

    Colours of equal brightness are hard to read, whatever their hues. All are of 0 to 255.
    """
    brightness = below.reshape(-1, 3) @ _LUMA
    colours = rng.random((16, 3), dtype=np.float32) * np.float32(255)
    contrast = opacity * np.abs(colours @ _LUMA - brightness.mean())
    legible = np.flatnonzero(contrast >= 50 + 0.75 * brightness.std())
    colour: Floats = colours[legible[0] if len(legible) else contrast.argmax()]
    return colour


def _boxes(owner: Pixels, count: int) -> Tensor:
    """The boxes (M, 4) around the pixels (H, W) of the digits 1 to M."""
    boxes = []
    for number in range(1, count + 1):
        mask = owner == number
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def _check(name: str, valid: bool, expected: str, found: object) -> None:
    if not valid:
        raise BrickInputError(f"DigitScenes, {name}", expected, repr(found))
