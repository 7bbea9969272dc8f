"""Pictures of what a model found, with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.core.conversions import float2uint8

MIN_WIDTH = 320  # pixels: below, a label would not be readable
BACKGROUND, _BAR, TEXT = (24, 26, 31), (62, 116, 180), (240, 240, 240)


@final
class DrawClassification:
    """Draw the most likely classes as bars under the picture.

    Args:
        labels: The K class names.
        top: How many bars.
    """

    def __init__(self, labels: Sequence[str], top: int = 5) -> None:
        self.labels = tuple(labels)
        self.top = top

    def __call__(self, image: npt.NDArray[Any], probabilities: npt.NDArray[Any]) -> Image.Image:
        """Draw one picture.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            probabilities: (K,), in [0, 1].

        Returns:
            A picture of the image's width, or 320 pixels if it is narrower, and higher by the bars.
        """
        picture = to_image(image)
        if picture.width < MIN_WIDTH:
            height = round(picture.height * MIN_WIDTH / picture.width)
            picture = picture.resize((MIN_WIDTH, max(height, 1)), Image.Resampling.NEAREST)
        best = np.argsort(-probabilities, kind="stable")[: self.top]
        row = max(18, picture.width // 24)
        canvas = Image.new("RGB", (picture.width, picture.height + row * len(best) + row // 2), BACKGROUND)
        canvas.paste(picture)
        draw = ImageDraw.Draw(canvas)
        font = ImageFont.load_default(size=round(row * 0.62))
        for rank, index in enumerate(best):
            top = picture.height + row // 4 + rank * row
            share = float(probabilities[index])
            bar = (row // 4, top + 1, row // 4 + round((picture.width - row // 2) * share), top + row - 2)
            draw.rounded_rectangle(bar, radius=row // 6, fill=_BAR)
            draw.text((row // 2, top + row // 2), self.labels[index], font=font, fill=TEXT, anchor="lm")
            draw.text((picture.width - row // 2, top + row // 2), f"{share:.1%}", font=font, fill=TEXT, anchor="rm")
        return canvas


def to_image(image: npt.NDArray[Any]) -> Image.Image:
    """(H, W, 3) or (H, W, 1), uint8 or float in [0, 1] -> a picture in RGB."""
    pixels = float2uint8(image)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]).convert("RGB")
