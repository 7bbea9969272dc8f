"""Draw points of several classes on an image."""

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
    draw_dot,
    row_height,
    to_image,
    with_legend,
)


@final
class DrawPoints:
    """Draw dots in the colours of their classes, with a legend of the classes below.

    Args:
        labels: The K class names.
        score_threshold: Points with a lower score are not drawn.
    """

    def __init__(self, labels: Sequence[str], score_threshold: float = 0.3) -> None:
        self.names = tuple(labels)
        self.colors = class_colors(labels)
        self.score_threshold = score_threshold

    def __call__(
        self,
        image: npt.NDArray[Any],
        points: npt.NDArray[Any],
        scores: npt.NDArray[Any],
        labels: npt.NDArray[Any],
    ) -> Image.Image:
        """Draw the points of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            points: (2, N), all x, then all y, in pixels of the image, as `BrickPerImageVisualization` passes (B, N, 2).
                A point that is not finite, or far away, is not drawn.
            scores: (N,), in [0, 1], best first.
            labels: (N,), in [0, K), or -1 for padding.

        Returns:
            The visualization: the image with a legend below if there are points, then at least 320 pixels wide.
        """
        canvas = to_image(image)
        draw, radius = ImageDraw.Draw(canvas), max(2.0, row_height(canvas) / 4)
        is_shown = (scores >= self.score_threshold) & (labels >= 0) & (np.abs(points) < FARTHEST).all(axis=0)
        shown = np.flatnonzero(is_shown)
        for index in shown[::-1]:  # the highest score last, on top
            draw_dot(draw, (float(points[0, index]), float(points[1, index])), radius, self.colors[labels[index]])
        return with_legend(canvas, class_entries(self.names, self.colors, labels[shown], scores[shown]))
