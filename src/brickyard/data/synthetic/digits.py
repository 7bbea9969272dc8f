"""Digit scenes: a small data set with labels for several tasks, generated on the fly (the extra `train`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from brickyard.core.specs import KeypointSpec
from brickyard.data.label_kinds import LabelKind
from brickyard.data.synthetic.backgrounds import Backgrounds, Split, photos_of
from brickyard.data.synthetic.glyphs import Glyph, Glyphs, digits_of
from brickyard.data.synthetic.scenes import (
    CORNER_FLIP_PAIRS,
    CORNER_SKELETON,
    CORNERS,
    DIGITS,
    Pixels,
    Scenes,
    Window,
    key_points,
    paint,
    to_tensor,
)

_TRIES = 24  # random positions that are tried for a digit
_MIN_VISIBLE = 0.8  # the fraction of a digit's pixels that later digits must not cover
_MAX_OVERLAP = 0.06  # the fraction of the rectangle around a digit that earlier digits may take


@final
@dataclass
class _Layers:
    """The digits of a scene, in the order in which they are painted.

    Attributes:
        owner: (H, W), the number of each pixel's digit from 1, 0 for none.
        overlaps: (H, W), whether several digits were painted on a pixel.
        glyphs: The digits 1, 2, ...
        windows: The window of the image that each covers.
    """

    owner: Pixels
    overlaps: npt.NDArray[np.bool_]
    glyphs: list[Glyph] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)

    def add(self, glyph: Glyph, window: Window) -> None:
        shape = glyph.ink >= 0.5
        self.glyphs.append(glyph)
        self.windows.append(window)
        self.overlaps[window] |= shape & (self.owner[window] > 0)
        self.owner[window][shape] = len(self.glyphs)


@final
class DigitScenes(Scenes):
    """Handwritten digits on crops of photos, with labels for seven tasks.

    The digits are scikit-learn's, the photos scikit-image's; both are part of their wheels. Size (a sixth to a half of
    the image), rotation, slant, color and opacity of each digit are random. No digit image and no photo is in two
    splits. A scene depends on `seed`, `split` and its index only.

    The key points of a digit, for `pose`, are the corners of the rectangle around it as it was written: top left, top
    right, bottom right, bottom left. They turn with the digit, by 17 degrees or less. A flip exchanges left and right.

    Depth is the distance to digits that are all equally high, by a pinhole camera: the side of the image divided by the
    height of the digit, 2 for the largest digits and 6 for the smallest. Digits are painted in a random order, so it is
    unknown where they overlap.

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

    labels: ClassVar[dict[str, tuple[str, ...]]] = {
        "cls": DIGITS,
        "seg": ("background", *DIGITS),
        "det": DIGITS,
        "fomo": DIGITS,
        "inst": DIGITS,
        "pose": DIGITS,
        "depth": (),
    }
    kinds: ClassVar[dict[str, LabelKind]] = {
        "cls": LabelKind.MULTI_HOT,
        "seg": LabelKind.MASK,
        "det": LabelKind.BOXES,
        "fomo": LabelKind.BOXES,
        "inst": LabelKind.INSTANCE_MASKS,
        "pose": LabelKind.INSTANCE_POINTS,
        "depth": LabelKind.DENSE_MAP,
    }
    keypoints: ClassVar[dict[str, KeypointSpec]] = {"pose": KeypointSpec(CORNERS, CORNER_FLIP_PAIRS, CORNER_SKELETON)}

    def __init__(
        self,
        split: Split,
        length: int,
        *,
        image_size: int | tuple[int, int] = 96,
        seed: int = 0,
        digits: tuple[int, int] = (1, 5),
    ) -> None:
        super().__init__(split, length, image_size, seed)
        self.check_argument("digits", 0 <= digits[0] <= digits[1], "(min, max) with 0 <= min <= max", digits)
        self.digits, self.image_size = digits, self.size[0]
        self._backgrounds = Backgrounds(photos_of(split), self.image_size)
        self._glyphs = Glyphs(*digits_of(split), min_height=self.image_size / 6, max_height=self.image_size / 2)

    def generate(self, rng: np.random.Generator) -> dict[str, Any]:
        """Generate one scene.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (10,) int64, 1 for each digit that is present, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to 10 for the digit that is visible at a pixel.
            targets/det: boxes (M, 4) float32, xyxy in pixels, tight around the visible pixels of a digit, and labels
                (M,) int64, 0 to 9. At least 80% of each digit is visible.
            targets/fomo: The same as for `det`.
            targets/inst: As for `det`, and masks (M, H, W) uint8, 1 for the visible pixels of a digit.
            targets/pose: As for `inst`, and keypoints (M, 4, 3) float32, (0, 0, 0) for those outside of the image.
            targets/depth: (H, W) float32, 0 for the background and where digits overlap.
        """
        image, layers = self._scene(rng)
        digits = [glyph.digit for glyph in layers.glyphs]
        classes = np.array([0, *(digit + 1 for digit in digits)], dtype=np.int64)
        masks = layers.owner == np.arange(1, len(digits) + 1, dtype=np.uint8)[:, None, None]
        instances = {"boxes": _boxes(masks), "labels": torch.tensor(digits, dtype=torch.int64)}
        with_masks = {**instances, "masks": torch.from_numpy(masks.view(np.uint8))}
        return {
            "image": to_tensor(image),
            "targets/cls": torch.tensor([int(digit in digits) for digit in range(len(DIGITS))]),
            "targets/seg": torch.from_numpy(classes[layers.owner]),
            "targets/det": instances,
            "targets/fomo": dict(instances),
            "targets/inst": with_masks,
            "targets/pose": {**with_masks, "keypoints": self._keypoints(layers)},
            "targets/depth": self._depth(layers),
        }

    def _scene(self, rng: np.random.Generator) -> tuple[Pixels, _Layers]:
        """Return the image (H, W, 3) and its digits."""
        image = np.array(self._backgrounds(rng))
        layers = _Layers(np.zeros(self.size, dtype=np.uint8), np.zeros(self.size, dtype=bool))
        areas = [0]  # pixels of each digit when it was painted; 0 for the background
        for _ in range(rng.integers(self.digits[0], self.digits[1] + 1)):
            glyph = self._glyphs(rng)
            shape = glyph.ink >= 0.5
            window = _free_window(layers.owner, areas, shape, rng)
            if window is None:
                continue
            paint(image, window, glyph.ink, rng)
            layers.add(glyph, window)
            areas.append(int(np.count_nonzero(shape)))
        return image, layers

    def _keypoints(self, layers: _Layers) -> Tensor:
        corners = [
            glyph.corners + np.array([columns.start, rows.start], dtype=np.float32)
            for glyph, (rows, columns) in zip(layers.glyphs, layers.windows, strict=True)
        ]
        return key_points(np.array(corners, dtype=np.float32).reshape(-1, len(CORNERS), 2), self.size)

    def _depth(self, layers: _Layers) -> Tensor:
        distances = np.array([0, *(self.image_size / glyph.height for glyph in layers.glyphs)], dtype=np.float32)
        depth = distances[layers.owner]
        depth[layers.overlaps] = 0
        return torch.from_numpy(depth)


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


def _boxes(masks: npt.NDArray[np.bool_]) -> Tensor:
    """Return the boxes (M, 4) around masks (M, H, W)."""
    boxes = []
    for mask in masks:
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
