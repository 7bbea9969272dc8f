"""Draw class probabilities below an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.core.conversions import float2uint8

MIN_WIDTH = 320  # pixels, for readable labels
BACKGROUND, _BAR, TEXT = (24, 26, 31), (62, 116, 180), (240, 240, 240)


@final
class DrawClassification:
    """Draw the most likely classes as bars below the image.

    Args:
        labels: The K class names.
        top: The number of bars.
    """

    def __init__(self, labels: Sequence[str], top: int = 5) -> None:
        self.labels = tuple(labels)
        self.top = top

    def __call__(self, image: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> Image.Image:
        """Draw the probabilities of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            probabilities: (K,), in [0, 1]; a class with a negative value is left out.

        Returns:
            The image with bars below. A narrower image is enlarged to a width of 320 pixels.
        """
        shown = to_image(image)
        if shown.width < MIN_WIDTH:
            height = round(shown.height * MIN_WIDTH / shown.width)
            shown = shown.resize((MIN_WIDTH, max(height, 1)), Image.Resampling.NEAREST)
        best = np.argsort(-probabilities, kind="stable")[: min(self.top, np.count_nonzero(probabilities >= 0))]
        row = max(18, shown.width // 24)
        canvas = Image.new("RGB", (shown.width, shown.height + row * len(best) + row // 2), BACKGROUND)
        canvas.paste(shown)
        draw = ImageDraw.Draw(canvas)
        font = ImageFont.load_default(size=round(row * 0.62))
        for rank, index in enumerate(best):
            top = shown.height + row // 4 + rank * row
            probability = float(probabilities[index])
            bar = (row // 4, top + 1, row // 4 + round((shown.width - row // 2) * probability), top + row - 2)
            draw.rounded_rectangle(bar, radius=row // 6, fill=_BAR)
            draw.text((row // 2, top + row // 2), self.labels[index], font=font, fill=TEXT, anchor="lm")
            draw.text((shown.width - row // 2, top + row // 2), f"{probability:.1%}", font=font, fill=TEXT, anchor="rm")
        return canvas


def to_image(image: npt.NDArray[Any]) -> Image.Image:
    """Convert an array (H, W, 3) or (H, W, 1), uint8 or float in [0, 1], to an RGB image."""
    pixels = float2uint8(image)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]).convert("RGB")
