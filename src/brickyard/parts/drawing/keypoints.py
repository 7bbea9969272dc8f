"""Draw keypoints on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.parts.drawing.boxes import color_of
from brickyard.parts.drawing.classification import to_image

_TEXT, _OUTLINE = (255, 255, 255), (0, 0, 0)


@final
class DrawKeypoints:
    """Draw a point with a name for each keypoint.

    Args:
        labels: The K names of the keypoints.
        score_threshold: Keypoints with a lower score are not drawn.
    """

    def __init__(self, labels: Sequence[str], score_threshold: float = 0.3) -> None:
        self.labels = tuple(labels)
        self.score_threshold = score_threshold

    def __call__(self, image: npt.NDArray[Any], keypoints: npt.NDArray[Any], scores: npt.NDArray[Any]) -> Image.Image:
        """Draw the keypoints of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            keypoints: (2, K), all x, then all y, in pixels of the image, as `BrickPerImageVisualization` passes
                (B, K, 2).
            scores: (K,), in [0, 1].

        Returns:
            The visualization, of the size of the image.
        """
        canvas = to_image(image)
        draw = ImageDraw.Draw(canvas)
        radius = max(2.0, max(canvas.size) / 120)
        font = ImageFont.load_default(size=max(9, round(max(canvas.size) / 45)))
        for index in np.argsort(scores, kind="stable"):  # the highest score last, on top
            if scores[index] < self.score_threshold:
                continue
            x, y = (float(value) for value in keypoints[:, index])
            outer = radius * 1.4
            draw.ellipse((x - outer, y - outer, x + outer, y + outer), fill=_OUTLINE)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color_of(int(index)))
            on_the_left = x + 2 * radius + draw.textlength(self.labels[index], font=font) > canvas.width
            text_x, anchor = (x - 2 * radius, "rm") if on_the_left else (x + 2 * radius, "lm")
            draw.text(
                (text_x, y),
                self.labels[index],
                font=font,
                fill=_TEXT,
                stroke_width=1,
                stroke_fill=_OUTLINE,
                anchor=anchor,
            )
        return canvas
