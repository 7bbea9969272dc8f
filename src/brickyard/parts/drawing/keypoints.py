"""Pictures with the keypoints that were found, with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.parts.drawing.boxes import color_of
from brickyard.parts.drawing.classification import to_image

_INK, _EDGE = (255, 255, 255), (0, 0, 0)


@final
class DrawKeypoints:
    """Draw a point with its name for each keypoint on the picture.

    Args:
        labels: The K names.
        score_threshold: Keypoints with a lower score are left out.
    """

    def __init__(self, labels: Sequence[str], score_threshold: float = 0.3) -> None:
        self.labels = tuple(labels)
        self.score_threshold = score_threshold

    def __call__(self, image: npt.NDArray[Any], keypoints: npt.NDArray[Any], scores: npt.NDArray[Any]) -> Image.Image:
        """Draw one picture.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            keypoints: (2, K): every x, then every y, in pixels of the image, as `BrickPerImageVisualization` turns
                (B, K, 2).
            scores: (K,), in [0, 1].

        Returns:
            A picture of the image's size.
        """
        picture = to_image(image)
        draw = ImageDraw.Draw(picture)
        radius = max(2.0, max(picture.size) / 120)
        font = ImageFont.load_default(size=max(9, round(max(picture.size) / 45)))
        for index in np.argsort(scores, kind="stable"):  # the surest last, on top
            if scores[index] < self.score_threshold:
                continue
            x, y = (float(place) for place in keypoints[:, index])
            outside = radius * 1.4
            draw.ellipse((x - outside, y - outside, x + outside, y + outside), fill=_EDGE)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color_of(int(index)))
            on_the_left = x + 2 * radius + draw.textlength(self.labels[index], font=font) > picture.width
            place, anchor = (x - 2 * radius, "rm") if on_the_left else (x + 2 * radius, "lm")
            draw.text(
                (place, y), self.labels[index], font=font, fill=_INK, stroke_width=1, stroke_fill=_EDGE, anchor=anchor
            )
        return picture
