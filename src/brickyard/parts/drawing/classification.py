"""Draw class probabilities below an image."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import (
    BACKGROUND,
    MIN_WIDTH,
    TEXT,
    Color,
    below,
    class_colors,
    font_for,
    row_height,
    shorten,
    to_image,
)

_BAR_OPACITY = 0.45  # so that text on the bar is readable; the edge has the full colour of the class


@final
class DrawClassification:
    """Draw the most likely classes as bars below the image, in the colours of the classes.

    Args:
        labels: The K class names.
        top: The number of bars.
    """

    def __init__(self, labels: Sequence[str], top: int = 5) -> None:
        self.labels = tuple(labels)
        self.colors = class_colors(labels)
        self.top = top

    def __call__(self, image: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> Image.Image:
        """Draw the probabilities of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            probabilities: (K,), in [0, 1]; nan has no bar, and a class with a negative value is left out.

        Returns:
            The image with bars below. A narrower image is enlarged to a width of 320 pixels.
        """
        shown = to_image(image)
        if shown.width < MIN_WIDTH:
            height = round(shown.height * MIN_WIDTH / shown.width)
            shown = shown.resize((MIN_WIDTH, max(height, 1)), Image.Resampling.NEAREST)
        best = np.argsort(-probabilities, kind="stable")[: min(self.top, np.count_nonzero(~(probabilities < 0)))]
        row = row_height(shown)
        canvas = below(shown, row * len(best) + row // 2)
        draw, font = ImageDraw.Draw(canvas), font_for(row)
        for rank, index in enumerate(best):
            top = shown.height + row // 4 + rank * row
            probability, color = float(probabilities[index]), self.colors[index]
            length = round((shown.width - row // 2) * min(max(probability, 0), 1)) if isfinite(probability) else 0
            left, edge = row // 4, max(2, row // 6)
            draw.rectangle((left, top + 1, left + length, top + row - 2), fill=_mixed(color))
            draw.rectangle((left, top + 1, left + edge, top + row - 2), fill=color)
            value = f"{probability:.1%}"
            right = shown.width - row // 2
            max_width = right - draw.textlength(f" {value}", font=font) - left - 2 * edge
            name = shorten(self.labels[index], max_width, draw, font)
            draw.text((left + 2 * edge, top + row // 2), name, font=font, fill=TEXT, anchor="lm")
            draw.text((right, top + row // 2), value, font=font, fill=TEXT, anchor="rm")
        return canvas


def _mixed(color: Color) -> Color:
    red, green, blue = (
        round(_BAR_OPACITY * part + (1 - _BAR_OPACITY) * dark) for part, dark in zip(color, BACKGROUND, strict=True)
    )
    return red, green, blue
