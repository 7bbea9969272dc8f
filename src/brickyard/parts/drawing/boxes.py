"""Draw detections on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import (
    FARTHEST,
    class_colors,
    class_entries,
    font_for,
    row_height,
    text_color,
    to_image,
    with_legend,
)
from brickyard.parts.drawing.tags import Box, free_spot


@final
class DrawBoxes:
    """Draw boxes in the colours of their classes, with a legend of the classes below.

    A box has a tag with its class and score where the tag covers no other box, and no tag where there is no such place.

    Args:
        labels: The K class names.
        score_threshold: Boxes with a lower score are not drawn.
    """

    def __init__(self, labels: Sequence[str], score_threshold: float = 0.3) -> None:
        self.names = tuple(labels)
        self.colors = class_colors(labels)
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
                `BrickPerImageVisualization` passes it. A box that is not finite, or far away, is not drawn.
            scores: (N,), in [0, 1], best first.
            labels: (N,), in [0, K), or -1 for padding.

        Returns:
            The visualization: the image with a legend below if there are boxes, then at least 320 pixels wide.
        """
        canvas = to_image(image)
        draw = ImageDraw.Draw(canvas)
        row = row_height(canvas)
        line, font = max(1, row // 7), font_for(row)
        boxes = boxes if boxes.shape == (len(scores), 4) else boxes.T
        is_shown = (scores >= self.score_threshold) & (labels >= 0) & (np.abs(boxes) < FARTHEST).all(axis=-1)
        shown = np.flatnonzero(is_shown)
        taken: list[Box] = []
        for index in shown[::-1]:  # the highest score last, on top
            left, top, right, bottom = (round(float(side)) for side in boxes[index])
            outline = (left, top, max(right - 1, left), max(bottom - 1, top))
            draw.rectangle(outline, outline=self.colors[labels[index]], width=line)
            taken.append((left, top, right, bottom))
        for index, box in zip(shown, taken[::-1], strict=True):
            color, text = self.colors[labels[index]], f"{self.names[labels[index]]}: {scores[index]:.0%}"
            width, height = (round(side) for side in draw.textbbox((0, 0), text, font=font, anchor="lt")[2:])
            spot = free_spot(box, (width + 2 * line + 2, height + 2 * line + 2), taken, canvas.width)
            if spot is None:
                continue
            taken.append(spot)
            draw.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), fill=color)
            draw.text((spot[0] + line + 1, spot[1] + line + 1), text, font=font, fill=text_color(color), anchor="lt")
        return with_legend(canvas, class_entries(self.names, self.colors, labels[shown], scores[shown]))
