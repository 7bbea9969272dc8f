"""Draw an anomaly map over an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import TEXT, below, font_for, row_height, to_image

# From a score of 0 to 1; 0.5, the threshold, is yellow.
_COLOURS = np.array([[0, 0, 96], [32, 96, 255], [255, 224, 32], [255, 96, 0], [192, 0, 0]], dtype=np.float64)
_OPACITY = 0.7  # where the score is 1; where it is 0, the image is unchanged


@final
class DrawAnomaly:
    """Colour the image by its anomaly map, from 0 (unchanged) over 0.5 (yellow) to 1 (red), with the scale below.

    The scale is the same for every image: it is not stretched to the values of the map.

    Args:
        labels: The names of normal and of anomalous images.
        threshold: The score of the image from which it is called anomalous.
    """

    def __init__(self, labels: Sequence[str], threshold: float = 0.5) -> None:
        self.labels = tuple(labels)
        self.threshold = threshold

    def __call__(self, image: npt.NDArray[Any], map: npt.NDArray[Any], score: npt.NDArray[Any] | float) -> Image.Image:
        """Draw the map of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            map: (w, h) in [0, 1], transposed, as `BrickPerImageVisualization` passes (B, h, w); not larger than the
                image. nan is not drawn.
            score: In [0, 1], of the image; the image is unchanged if it is negative. A number or an array of one.

        Returns:
            The visualization with the scale and the score below, at least 320 pixels wide. The image is not resized.
        """
        shown, value = to_image(image), float(np.reshape(score, ()))
        if value < 0:
            return shown
        scores = np.clip(np.nan_to_num(map.T.astype(np.float64), nan=0.0), 0, 1)
        region = np.asarray(shown.crop((0, 0, map.shape[0], map.shape[1])))
        opacity = _OPACITY * scores[..., None]
        mixed = region * (1 - opacity) + _colorize(scores) * opacity
        shown.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)))
        return self._with_scale(shown, value)

    def _with_scale(self, image: Image.Image, score: float) -> Image.Image:
        row = row_height(image) + 4
        canvas = below(image, row)
        draw, font = ImageDraw.Draw(canvas), font_for(row)
        middle, gap = image.height + row // 2, row // 4
        name = self.labels[int(score >= self.threshold)]
        draw.text((canvas.width - gap, middle), f"{name}  {score:.0%}", font=font, fill=TEXT, anchor="rm")
        left, right = 2 * gap + round(draw.textlength("0", font=font)), canvas.width // 2
        bar = np.broadcast_to(_colorize(np.linspace(0, 1, right - left)), (row // 2, right - left, 3))
        canvas.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (left, image.height + gap))
        draw.text((gap, middle), "0", font=font, fill=TEXT, anchor="lm")
        draw.text((right + gap, middle), "1", font=font, fill=TEXT, anchor="lm")
        return canvas


def _colorize(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Map values in [0, 1] to colours (..., 3)."""
    positions = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(values, positions, channel) for channel in _COLOURS.T], axis=-1)
