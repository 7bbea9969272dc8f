"""Draw depth as colours on an image."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.parts.drawing.classification import BACKGROUND, MIN_WIDTH, TEXT, to_image

# Five colours of matplotlib's "magma", from near (bright) to far (dark).
_COLOURS = np.array([[252, 253, 191], [252, 137, 97], [183, 55, 121], [81, 18, 124], [0, 0, 4]], dtype=np.float64)
_OPACITY = 0.75


@final
class DrawDepth:
    """Colour the image by depth, bright for near and dark for far, with a colour bar below."""

    def __call__(self, image: npt.NDArray[Any], depth: npt.NDArray[Any]) -> Image.Image:
        """Draw the depth of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            depth: (h, w, 1), not larger than the image. The image is unchanged to the right of it and below.

        Returns:
            The visualization with a colour bar below, at least 320 pixels wide. The image is not resized.
        """
        shown = to_image(image)
        height, width = depth.shape[:2]
        near, far = (float(value) for value in np.percentile(depth, (2, 98)))
        region = np.asarray(shown.crop((0, 0, width, height)))
        mixed = region * (1 - _OPACITY) + _colorize((depth[..., 0] - near) / max(far - near, 1e-12)) * _OPACITY
        shown.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)))
        return _with_color_bar(shown, near, far)


def _colorize(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Map values from 0 (near) to 1 (far) to colours (..., 3)."""
    positions = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(values, positions, channel) for channel in _COLOURS.T], axis=-1)


def _with_color_bar(image: Image.Image, near: float, far: float) -> Image.Image:
    width = max(image.width, MIN_WIDTH)
    row = max(22, width // 40)
    canvas = Image.new("RGB", (width, image.height + row), BACKGROUND)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=round(row * 0.55))
    middle = image.height + row // 2
    draw.text((row // 4, middle), f"{near:.3g}", font=font, fill=TEXT, anchor="lm")
    draw.text((width - row // 4, middle), f"{far:.3g}", font=font, fill=TEXT, anchor="rm")
    left, right = width // 5, width - width // 5
    bar = np.broadcast_to(_colorize(np.linspace(0, 1, right - left)), (row // 2, right - left, 3))
    canvas.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (left, image.height + row // 4))
    return canvas
