"""Pictures of vectors, with Pillow."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.classification import BACKGROUND, MIN_WIDTH, to_image

_POSITIVE, _NEGATIVE, _ZERO = np.array([236, 128, 61]), np.array([62, 116, 180]), np.array(BACKGROUND)


@final
class DrawEmbedding:
    """Draw a vector as a strip of colours under the picture: orange above zero, blue below, dark near it.

    Vectors that are near each other have strips that look alike.
    """

    def __call__(self, image: npt.NDArray[Any], vector: npt.NDArray[Any]) -> Image.Image:
        """Draw one picture.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            vector: (D,).

        Returns:
            The picture, at least 320 pixels wide, and higher by the strip.
        """
        picture = to_image(image)
        width, row = max(picture.width, MIN_WIDTH), max(24, picture.width // 16)
        canvas = Image.new("RGB", (width, picture.height + row), BACKGROUND)
        canvas.paste(picture)
        draw = ImageDraw.Draw(canvas)
        edges = np.linspace(0, width, len(vector) + 1)
        for index, share in enumerate(vector / max(float(np.abs(vector).max()), 1e-12)):
            color = _ZERO + abs(share) * ((_POSITIVE if share > 0 else _NEGATIVE) - _ZERO)
            left, right = round(edges[index]), max(round(edges[index + 1]) - 1, round(edges[index]))
            place = (left, picture.height + row // 6, right, picture.height + row - row // 6)
            draw.rectangle(place, fill=tuple(np.rint(color).astype(int).tolist()))
        return canvas
