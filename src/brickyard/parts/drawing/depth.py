"""Draw depth as colours on an image."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import TEXT, below, font_for, row_height, to_image

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
            depth: (h, w, 1), not larger than the image. The image is unchanged to the right of it and below, and where
                the depth is not above 0 or not finite.

        Returns:
            The visualization with a colour bar below, at least 320 pixels wide. The image is not resized.
        """
        shown, depth = to_image(image), depth.astype(np.float64)
        height, width = depth.shape[:2]
        known = depth[np.isfinite(depth) & (depth > 0)]
        near, far = (float(value) for value in np.percentile(known, (2, 98))) if known.size else (0.0, 0.0)
        region = np.asarray(shown.crop((0, 0, width, height)))
        is_known = np.isfinite(depth) & (depth > 0)
        relative = (np.where(is_known, depth, near)[..., 0] - near) / max(far - near, 1e-12)
        opacity = _OPACITY * is_known
        mixed = region * (1 - opacity) + _colorize(relative) * opacity
        shown.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)))
        return _with_color_bar(shown, near, far)


def _colorize(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Map values from 0 (near) to 1 (far) to colours (..., 3)."""
    positions = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(values, positions, channel) for channel in _COLOURS.T], axis=-1)


def _with_color_bar(image: Image.Image, near: float, far: float) -> Image.Image:
    row = row_height(image) + 4
    canvas = below(image, row)
    width = canvas.width
    draw, font = ImageDraw.Draw(canvas), font_for(row)
    middle = image.height + row // 2
    draw.text((row // 4, middle), f"{near:.3g}", font=font, fill=TEXT, anchor="lm")
    draw.text((width - row // 4, middle), f"{far:.3g}", font=font, fill=TEXT, anchor="rm")
    left, right = width // 5, width - width // 5
    bar = np.broadcast_to(_colorize(np.linspace(0, 1, right - left)), (row // 2, right - left, 3))
    canvas.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (left, image.height + row // 4))
    return canvas
