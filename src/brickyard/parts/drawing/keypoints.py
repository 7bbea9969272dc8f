"""Draw keypoints on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import FARTHEST, Entry, class_colors, draw_dot, row_height, to_image, with_legend


@final
class DrawKeypoints:
    """Draw a point in a colour of its own for each keypoint, with a legend of the names below.

    Args:
        labels: The K names of the keypoints.
        score_threshold: Keypoints with a lower score are not drawn.
    """

    def __init__(self, labels: Sequence[str], score_threshold: float = 0.3) -> None:
        self.labels = tuple(labels)
        self.colors = class_colors(labels)
        self.score_threshold = score_threshold

    def __call__(self, image: npt.NDArray[Any], keypoints: npt.NDArray[Any], scores: npt.NDArray[Any]) -> Image.Image:
        """Draw the keypoints of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            keypoints: (2, K), all x, then all y, in pixels of the image, as `BrickPerImageVisualization` passes
                (B, K, 2). A point that is not finite, or far away, is not drawn.
            scores: (K,), in [0, 1].

        Returns:
            The visualization: the image with a legend below if there are keypoints, then at least 320 pixels wide.
        """
        canvas = to_image(image)
        draw = ImageDraw.Draw(canvas)
        radius = max(2.0, row_height(canvas) / 4)
        is_shown = (scores >= self.score_threshold) & (np.abs(keypoints) < FARTHEST).all(axis=0)
        for index in np.argsort(scores, kind="stable"):  # the highest score last, on top
            if is_shown[index]:
                x, y = (float(value) for value in keypoints[:, index])
                draw_dot(draw, (x, y), radius, self.colors[index])
        shown = np.flatnonzero(is_shown)
        return with_legend(
            canvas, [Entry(self.labels[index], f"{scores[index]:.0%}", self.colors[index]) for index in shown]
        )
