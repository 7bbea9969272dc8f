"""Lines of handwritten digits, for text recognition (the extra `train`)."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from brickyard.data.label_kinds import LabelKind
from brickyard.data.synthetic.backgrounds import Backgrounds, Split, photos_of
from brickyard.data.synthetic.glyphs import Glyph, Glyphs, digits_of
from brickyard.data.synthetic.scenes import DIGITS, Floats, Scenes, paint, to_tensor

# Relative to the height of the image, or to a third of its width if that is less: the height of a digit, the gap
# between two digits, and how far a digit is shifted up or down.
_HEIGHTS, _GAPS, _SHIFT = (0.45, 0.65), (0.02, 0.25), 0.06


@final
class DigitText(Scenes):
    """A line of handwritten digits on a crop of a photo, with labels for `ocr`.

    Digits, photos and splits are those of `DigitScenes`. The digits of a line have one color; their sizes, turns,
    heights above the line and gaps are random, and neighbours may touch.

    Args:
        split: "train", "val" or "test".
        length: The number of lines; the first ones are the same for any length.
        image_size: The side of an image in pixels, or (H, W); 48 or more.
        seed: The seed of the lines; not negative.
        digits: The smallest and the largest number of digits in a line; there are fewer where no more fit.

    Raises:
        UnknownNameError: The split is unknown.
        BrickInputError: A number is out of range.
        MissingExtraError: The extra `train` is not installed.
    """

    labels: ClassVar[dict[str, tuple[str, ...]]] = {"ocr": DIGITS}
    kinds: ClassVar[dict[str, LabelKind]] = {"ocr": LabelKind.TEXT}
    is_square: ClassVar[bool] = False

    def __init__(
        self,
        split: Split,
        length: int,
        *,
        image_size: int | tuple[int, int] = (64, 192),
        seed: int = 0,
        digits: tuple[int, int] = (1, 6),
    ) -> None:
        super().__init__(split, length, image_size, seed)
        self.check_argument("digits", 1 <= digits[0] <= digits[1], "(min, max) with 1 <= min <= max", digits)
        self.digits = digits
        self._unit = min(self.size[0], self.size[1] / 3)
        self._backgrounds = Backgrounds(photos_of(split), max(self.size))
        self._glyphs = Glyphs(*digits_of(split), *(height * self._unit for height in _HEIGHTS))

    def generate(self, rng: np.random.Generator) -> dict[str, Any]:
        """Generate one line.

        Returns:
            image: (3, H, W) uint8.
            targets/ocr: Its digits, from left to right.
        """
        height, width = self.size
        top, left = (int(rng.integers(max(self.size) - side + 1)) for side in self.size)
        image = np.array(self._backgrounds(rng))[top : top + height, left : left + width]
        glyphs = [self._glyphs(rng) for _ in range(rng.integers(self.digits[0], self.digits[1] + 1))]
        line, text = self._line(glyphs, rng)
        top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(self.size, line.shape, strict=True))
        paint(image, (slice(top, top + line.shape[0]), slice(left, left + line.shape[1])), line, rng)
        return {"image": to_tensor(image), "targets/ocr": text}

    def _line(self, glyphs: list[Glyph], rng: np.random.Generator) -> tuple[Floats, str]:
        """Set digits side by side, as many as fit into the image: their ink (h, w) and their text."""
        ink = np.zeros(self.size, dtype=np.float32)
        right, text = 0, ""
        for glyph in glyphs:
            height, width = glyph.ink.shape
            left = right + (int(rng.uniform(*_GAPS) * self._unit) if text else 0)
            if left + width > self.size[1]:
                break
            middle = (self.size[0] - height) / 2 + rng.uniform(-_SHIFT, _SHIFT) * self._unit
            top = int(np.clip(middle, 0, self.size[0] - height))
            ink[top : top + height, left : left + width] = glyph.ink
            right, text = left + width, text + str(glyph.digit)
        rows = np.flatnonzero(ink.any(axis=1))
        return ink[rows[0] : rows[-1] + 1, :right], text
