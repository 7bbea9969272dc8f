"""Draw segmentation masks on an image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.errors import BrickInputError
from brickyard.parts.drawing.classification import BACKGROUND, MIN_WIDTH, TEXT, to_image

_ENTRY_WIDTH = 150  # the minimum width of an entry of the legend, in pixels
_OPACITY = 0.5  # of a class's colour; its border has the full colour


@final
class DrawSegmentation:
    """Colour each pixel by its class, with a legend of the classes in the mask below.

    Pixels of a class named "background" are not coloured.

    Args:
        labels: The K class names.
        top: The maximum number of classes in the legend, by decreasing area.
    """

    def __init__(self, labels: Sequence[str], top: int = 12) -> None:
        self.labels = tuple(labels)
        self.top = top
        self.colours = class_colours(len(self.labels))

    def __call__(self, image: npt.NDArray[Any], class_prediction: npt.NDArray[Any]) -> Image.Image:
        """Draw the mask of one image.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            class_prediction: (h, w) integers, not larger than the image. The image is unchanged to the right of it and
                below (e.g. the legend of another head), and where the class is outside [0, K).

        Returns:
            The visualization with a legend below, at least 320 pixels wide. The image is not resized.

        Raises:
            BrickInputError: The mask is larger than the image.
        """
        shown = to_image(image)
        height, width = class_prediction.shape
        if height > shown.height or width > shown.width:
            expected = f"class_prediction (H, W) within {(shown.height, shown.width)}"
            raise BrickInputError("draw_segmentation", expected, f"{(height, width)}")
        valid = (class_prediction >= 0) & (class_prediction < len(self.labels))
        pixels = np.bincount(class_prediction[valid], minlength=len(self.labels))
        order = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]
        legend = [(int(index), float(pixels[index]) / valid.size) for index in order[: self.top]]
        shown.paste(self._colorize(shown.crop((0, 0, width, height)), class_prediction, valid))
        return self._with_legend(shown, legend, num_hidden=len(order) - len(legend))

    def _colorize(self, image: Image.Image, classes: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Image.Image:
        is_colored = np.array([label != "background" for label in self.labels])
        index = np.where(valid, classes, 0)
        opacity = np.where(valid & is_colored[index], np.where(_borders(classes), 1.0, _OPACITY), 0.0)[..., None]
        mixed = np.asarray(image) * (1 - opacity) + self.colours[index] * opacity
        return Image.fromarray(np.rint(mixed).astype(np.uint8))

    def _with_legend(self, image: Image.Image, legend: list[tuple[int, float]], num_hidden: int) -> Image.Image:
        width = max(image.width, MIN_WIDTH)
        row = max(18, width // 40)
        columns = max(width // max(_ENTRY_WIDTH, row * 8), 1)
        entries = len(legend) + bool(num_hidden)
        size = (width, image.height + row * -(-entries // columns) + row // 2)
        canvas = Image.new("RGB", size, BACKGROUND)
        canvas.paste(image)
        draw = ImageDraw.Draw(canvas)
        font = ImageFont.load_default(size=round(row * 0.62))
        for entry in range(entries):
            left = row // 4 + entry % columns * (width // columns)
            top = image.height + row // 4 + entry // columns * row
            if entry == len(legend):
                draw.text((left, top + row // 2), f"and {num_hidden} more", font=font, fill=TEXT, anchor="lm")
                continue
            index, fraction = legend[entry]
            swatch = (left, top + 3, left + row - 6, top + row - 4)
            is_background = self.labels[index] == "background"
            draw.rectangle(swatch, fill=None if is_background else tuple(self.colours[index].tolist()), outline=TEXT)
            text = f"{fraction:.1%}"
            right = left + width // columns - row // 2
            max_width = right - draw.textlength(f" {text}", font=font) - left - row
            label = _shorten(self.labels[index], max_width, draw, font)
            draw.text((left + row, top + row // 2), label, font=font, fill=TEXT, anchor="lm")
            draw.text((right, top + row // 2), text, font=font, fill=TEXT, anchor="rm")
        return canvas


def class_colours(count: int) -> npt.NDArray[np.uint8]:
    """Create `count` distinct colours (count, 3); hue steps of the golden ratio separate neighbouring classes."""
    colours = [
        colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.85, 0.6)[index // 2 % 2], (0.95, 0.75)[index % 2])
        for index in range(count)
    ]
    rounded: npt.NDArray[np.uint8] = np.rint(np.array(colours) * 255).astype(np.uint8)
    return rounded


def _borders(classes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Mark pixels whose class differs from the pixel below or to the right."""
    borders = np.zeros(classes.shape, dtype=bool)
    borders[:-1] |= classes[:-1] != classes[1:]
    borders[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    return borders


def _shorten(label: str, max_width: float, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """Truncate a label to `max_width` pixels."""
    if draw.textlength(label, font=font) <= max_width:
        return label
    while label and draw.textlength(f"{label}...", font=font) > max_width:
        label = label[:-1]
    return f"{label}..."
