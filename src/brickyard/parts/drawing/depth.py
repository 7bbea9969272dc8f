"""Pictures of depth, with Pillow."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.parts.drawing.classification import BACKGROUND, MIN_WIDTH, TEXT, to_image

# Of matplotlib's "magma", five colours: near is bright, far is dark, and so in print.
_COLOURS = np.array([[252, 253, 191], [252, 137, 97], [183, 55, 121], [81, 18, 124], [0, 0, 4]], dtype=np.float64)
_OPACITY = 0.75


@final
class DrawDepth:
    """Colour the picture by depth, bright for near and dark for far, with the scale under it."""

    def __call__(self, image: npt.NDArray[Any], depth: npt.NDArray[Any]) -> Image.Image:
        """Draw one picture.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            depth: (h, w, 1), no larger than the image: what lies right of it and below stays as it is.

        Returns:
            The picture with the scale under it, at least 320 pixels wide; the image stays where it is and as large.
        """
        picture = to_image(image)
        height, width = depth.shape[:2]
        near, far = (float(value) for value in np.percentile(depth, (2, 98)))
        below = np.asarray(picture.crop((0, 0, width, height)))
        mixed = below * (1 - _OPACITY) + _coloured((depth[..., 0] - near) / max(far - near, 1e-12)) * _OPACITY
        picture.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)))
        return _with_scale(picture, near, far)


def _coloured(shares: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Colours (..., 3) for what lies between near, 0, and far, 1."""
    prefixes = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(shares, prefixes, channel) for channel in _COLOURS.T], axis=-1)


def _with_scale(picture: Image.Image, near: float, far: float) -> Image.Image:
    width = max(picture.width, MIN_WIDTH)
    row = max(22, width // 40)
    canvas = Image.new("RGB", (width, picture.height + row), BACKGROUND)
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=round(row * 0.55))
    middle = picture.height + row // 2
    draw.text((row // 4, middle), f"{near:.3g}", font=font, fill=TEXT, anchor="lm")
    draw.text((width - row // 4, middle), f"{far:.3g}", font=font, fill=TEXT, anchor="rm")
    left, right = width // 5, width - width // 5
    bar = np.broadcast_to(_coloured(np.linspace(0, 1, right - left)), (row // 2, right - left, 3))
    canvas.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (left, picture.height + row // 4))
    return canvas
