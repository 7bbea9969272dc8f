"""Scenes of a single handwritten digit (the extra `train`)."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch

from brickyard.core.specs import KeypointSpec
from brickyard.data.label_kinds import LabelKind
from brickyard.data.synthetic.backgrounds import Backgrounds, Split, photos_of
from brickyard.data.synthetic.glyphs import Glyphs, digits_of
from brickyard.data.synthetic.scenes import (
    CORNER_FLIP_PAIRS,
    CORNERS,
    DIGITS,
    Scenes,
    key_points,
    paint,
    to_tensor,
)


@final
class SingleDigits(Scenes):
    """One large handwritten digit on a crop of a photo, with labels for `cls`, `kpt` and `emb`.

    Digits, photos and splits are those of `DigitScenes`; the height of a digit is 30% to 60% of the image. The key
    points are the corners of the rectangle around the digit as it was written, see `DigitScenes`. For `emb`, the
    identity is the digit: all splits have the identities 0 to 9, each by other handwritten originals, so that
    validation and test measure the retrieval of digits that were written by hand another time.

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

    labels: ClassVar[dict[str, tuple[str, ...]]] = {"cls": DIGITS, "kpt": CORNERS, "emb": ()}
    kinds: ClassVar[dict[str, LabelKind]] = {
        "cls": LabelKind.CLASS_INDEX,
        "kpt": LabelKind.POINTS,
        "emb": LabelKind.ID,
    }
    keypoints: ClassVar[dict[str, KeypointSpec]] = {"kpt": KeypointSpec(CORNERS, CORNER_FLIP_PAIRS)}

    def __init__(self, split: Split, length: int, *, image_size: int | tuple[int, int] = 96, seed: int = 0) -> None:
        super().__init__(split, length, image_size, seed)
        side = self.size[0]
        self._backgrounds = Backgrounds(photos_of(split), side)
        # At 60% even a digit that is turned and stretched as far as possible is within the image.
        self._glyphs = Glyphs(*digits_of(split), min_height=0.3 * side, max_height=0.6 * side)

    def generate(self, rng: np.random.Generator) -> dict[str, Any]:
        """Generate one scene.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: () int64, the digit.
            targets/kpt: (4, 3) float32, (0, 0, 0) for points outside of the image.
            targets/emb: () int64, the digit.
        """
        image = np.array(self._backgrounds(rng))
        glyph = self._glyphs(rng)
        height, width = glyph.ink.shape
        top, left = int(rng.integers(self.size[0] - height + 1)), int(rng.integers(self.size[1] - width + 1))
        paint(image, (slice(top, top + height), slice(left, left + width)), glyph.ink, rng)
        return {
            "image": to_tensor(image),
            "targets/cls": torch.tensor(glyph.digit),
            "targets/kpt": key_points(glyph.corners + np.array([left, top], dtype=np.float32), self.size),
            "targets/emb": torch.tensor(glyph.digit),
        }
