"""Draw embeddings below an image."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import BACKGROUND, below, row_height, to_image

_POSITIVE, _NEGATIVE, _ZERO = np.array([236, 128, 61]), np.array([62, 116, 180]), np.array(BACKGROUND)


@final
class DrawEmbedding:
    """Draw a vector as a strip of colours below the image: orange for positive, blue for negative, dark near zero.

    Similar vectors have similar strips.
    """

    def __call__(self, image: npt.NDArray[Any], vector: npt.NDArray[Any]) -> Image.Image:
        """Draw the vector of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            vector: (D,).

        Returns:
            The image with the strip below, at least 320 pixels wide.
        """
        shown = to_image(image)
        row = 2 * row_height(shown)
        canvas = below(shown, row)
        vector = np.nan_to_num(vector.astype(np.float64), posinf=0, neginf=0)
        draw = ImageDraw.Draw(canvas)
        edges = np.linspace(0, canvas.width, len(vector) + 1)
        for index, value in enumerate(vector / max(float(np.abs(vector).max()), 1e-12)):
            color = _ZERO + abs(value) * ((_POSITIVE if value > 0 else _NEGATIVE) - _ZERO)
            left, right = round(edges[index]), max(round(edges[index + 1]) - 1, round(edges[index]))
            bounds = (left, shown.height + row // 6, right, shown.height + row - row // 6)
            draw.rectangle(bounds, fill=tuple(np.rint(color).astype(int).tolist()))
        return canvas
