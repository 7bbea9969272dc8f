"""Draw detections on an image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.parts.drawing.classification import to_image

_HUE_STEP = 0.618034  # the golden ratio, which gives neighbouring classes distant hues for any number of classes


@final
class DrawBoxes:
    """Draw boxes with their class names and scores.

    Args:
        labels: The K class names.
        score_threshold: Boxes with a lower score are not drawn.
    """

    def __init__(self, labels: Sequence[str], score_threshold: float = 0.3) -> None:
        self.names = tuple(labels)
        self.score_threshold = score_threshold

    def __call__(
        self,
        image: npt.NDArray[Any],
        boxes: npt.NDArray[Any],
        scores: npt.NDArray[Any],
        labels: npt.NDArray[Any],
    ) -> Image.Image:
        """Draw the detections of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            boxes: (N, 4), (x1, y1, x2, y2) in pixels of the image; or its transpose, as
                `BrickPerImageVisualization` passes it.
            scores: (N,), in [0, 1], best first.
            labels: (N,), in [0, K), or -1 for padding.

        Returns:
            The visualization, of the size of the image.
        """
        canvas = to_image(image)
        draw = ImageDraw.Draw(canvas)
        scale = max(canvas.width, canvas.height)
        line = max(1, round(scale / 250))
        font = ImageFont.load_default(size=max(9, round(scale / 40)))
        boxes = boxes if boxes.shape == (len(scores), 4) else boxes.T
        shown = np.flatnonzero((scores >= self.score_threshold) & (labels >= 0))
        for index in shown[::-1]:  # the highest score last, on top
            label, color = self.names[labels[index]], color_of(int(labels[index]))
            left, top, right, bottom = (round(float(side)) for side in boxes[index])
            draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=color, width=line)
            text = f"{label}: {scores[index]:.0%}"
            width, height = (round(side) for side in draw.textbbox((0, 0), text, font=font, anchor="lt")[2:])
            pad = line + 1
            left = max(0, min(left, canvas.width - width - 2 * pad))
            above = top - height - 2 * pad
            top = above if above >= 0 else top  # the name of a box at the upper edge is inside
            draw.rectangle((left, top, left + width + 2 * pad, top + height + 2 * pad), fill=color)
            draw.text((left + pad, top + pad), text, font=font, fill=_text_color(color), anchor="lt")
        return canvas


def color_of(label: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class, the same in every image."""
    red, green, blue = colorsys.hsv_to_rgb(label * _HUE_STEP % 1.0, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _text_color(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Choose black or white text for a background colour by its luma (ITU-R BT.601)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)
