"""Handwritten digits on paper, with and without a foreign object (the extra `train`)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch

from brickyard.data.label_kinds import LabelKind
from brickyard.data.synthetic.backgrounds import Backgrounds, Split, photos_of
from brickyard.data.synthetic.glyphs import Glyphs, digits_of
from brickyard.data.synthetic.scenes import Floats, Scenes, to_tensor

_MAX_DIGITS = 4
_RADII = (0.07, 0.16)  # of a foreign object, relative to the side of the image
_MIN_CONTRAST = 25.0  # of 255, the mean difference between a foreign object and the paper with its ink


@final
class DigitAnomalies(Scenes):
    """Handwritten digits on paper, half of them with a foreign object, with labels for `anomaly`.

    Digits, photos and splits are those of `DigitScenes`. What is normal must be alike in all splits, so the background
    is paper with its tint, shade and grain, and the ink is dark. A foreign object is a round or jagged piece of a
    photo, up to 32% of the side of the image; no photo is in two splits. The training split has normal images only.

    Args:
        split: "train", "val" or "test".
        length: The number of scenes; the first ones are the same for any length.
        image_size: The side of a scene in pixels, 48 or more.
        seed: The seed of the scenes; not negative.

    Raises:
        UnknownNameError: The split is unknown.
        BrickInputError: A number is out of range.
        MissingExtraError: The extra `train` is not installed.
    """

    labels: ClassVar[dict[str, tuple[str, ...]]] = {"anomaly": ("normal", "anomalous")}
    kinds: ClassVar[dict[str, LabelKind]] = {"anomaly": LabelKind.CLASS_INDEX, "anomaly/mask": LabelKind.MASK}

    def __init__(self, split: Split, length: int, *, image_size: int | tuple[int, int] = 96, seed: int = 0) -> None:
        super().__init__(split, length, image_size, seed)
        side = self.size[0]
        self._objects = Backgrounds(photos_of(split), side)
        self._glyphs = Glyphs(*digits_of(split), min_height=side / 6, max_height=side / 3)

    def generate(self, rng: np.random.Generator) -> dict[str, Any]:
        """Generate one scene.

        Returns:
            image: (3, H, W) uint8.
            targets/anomaly: () int64, 1 with a foreign object, else 0.
            targets/anomaly/mask: (H, W) int64, 1 for the pixels of the foreign object, else 0.
        """
        image = _paper(self.size, rng)
        for _ in range(rng.integers(1, _MAX_DIGITS + 1)):
            self._write(image, rng)
        mask = np.zeros(self.size, dtype=bool)
        if self.split != "train" and rng.random() < 0.5:
            mask = _blob(self.size[0], rng)
            image = np.where(mask[..., None], self._object(image, mask, rng), image)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        return {
            "image": to_tensor(pixels),
            "targets/anomaly": torch.tensor(int(mask.any())),
            "targets/anomaly/mask": torch.from_numpy(mask.astype(np.int64)),
        }

    def _write(self, image: Floats, rng: np.random.Generator) -> None:
        """Write a digit in dark ink."""
        ink = self._glyphs(rng).ink
        top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(self.size, ink.shape, strict=True))
        below = image[top : top + ink.shape[0], left : left + ink.shape[1]]
        color = rng.uniform(10, 90, size=3).astype(np.float32)
        below += ink[..., None] * np.float32(rng.uniform(0.7, 1.0)) * (color - below)

    def _object(self, image: Floats, mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> Floats:
        """Return pixels of a photo that differ from the image within the mask; the last of ten tries may not."""
        for _ in range(10):
            photo = np.array(self._objects(rng), dtype=np.float32)
            if np.abs(photo[mask] - image[mask]).mean() >= _MIN_CONTRAST:
                break
        return photo


def _paper(size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return paper (H, W, 3), in [0, 255]: a light tint that is shaded to one side, with grain."""
    rows, columns = (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in size)
    angle, shade = rng.uniform(0, 2 * math.pi), rng.uniform(0, 30)
    slope = np.float32(math.cos(angle)) * columns + np.float32(math.sin(angle)) * rows[:, None]
    grain = rng.normal(0, rng.uniform(1, 4), size=size).astype(np.float32)
    tint = rng.uniform(200, 235) + rng.normal(0, 6, size=3)
    return (np.float32(shade) * slope + grain)[..., None] + tint.astype(np.float32)


def _blob(side: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return the pixels (side, side) bool of a round or jagged shape, whole within the image."""
    radius = rng.uniform(*_RADII) * side
    center = rng.uniform(radius, side - radius, size=2)
    axis = np.arange(side) + 0.5
    down, right = (axis - center[0])[:, None], axis - center[1]
    angle = np.arctan2(down, right)
    heights, phases = rng.uniform(0, 0.2, size=4), rng.uniform(0, 2 * math.pi, size=4)
    waves = (heights * np.cos(np.array([2, 3, 5, 7]) * angle[..., None] + phases)).sum(axis=-1)
    shape: npt.NDArray[np.bool_] = np.hypot(down, right) <= radius * (1 + waves) / (1 + heights.sum())
    return shape
