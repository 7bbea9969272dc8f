"""Draw the text that was read below an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import TEXT, below, font_for, row_height, shorten, to_image

_MUTED = (150, 150, 150)
_NO_TEXT = "(no text)"


@final
class DrawText:
    """Write the text below the image, with its score.

    Args:
        labels: The K characters.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)

    def __call__(
        self, image: npt.NDArray[Any], text: npt.NDArray[Any] | str, score: npt.NDArray[Any] | float
    ) -> Image.Image:
        """Draw the text of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            text: (T,), the indices of the characters, negative for padding; or a string.
            score: In [0, 1]; a text with a negative score is not written. A number or an array of one.

        Returns:
            The image with the text below, at least 320 pixels wide.
        """
        shown = to_image(image)
        value = float(np.reshape(score, ()))
        if value < 0:
            return shown
        if not isinstance(text, str):
            text = "".join(self.labels[index] for index in text if index >= 0)
        row = 2 * row_height(shown)
        canvas = below(shown, row)
        draw, middle = ImageDraw.Draw(canvas), shown.height + row // 2
        percent, font = f"{value:.0%}", font_for(row // 2)
        right = canvas.width - row // 4
        draw.text((right, middle), percent, font=font, fill=TEXT, anchor="rm")
        large = font_for(row)
        max_width = right - draw.textlength(f" {percent}", font=font) - row // 4
        written = shorten(text or _NO_TEXT, max_width, draw, large)
        draw.text((row // 4, middle), written, font=large, fill=TEXT if text else _MUTED, anchor="lm")
        return canvas
