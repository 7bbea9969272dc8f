"""Pictures of which class each pixel has, with Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.errors import BrickInputError
from brickyard.parts.drawing.classification import BACKGROUND, MIN_WIDTH, TEXT, to_image

_ENTRY_WIDTH = 150  # pixels that an entry of the legend takes at least
_OPACITY = 0.5  # of a class's colour; its border has the full colour


@final
class DrawSegmentation:
    """Colour the classes on the picture, with a legend of those that are there under it.

    A class that is called "background" stays as it is.

    Args:
        labels: The K class names.
        top: How many classes the legend has at most, largest first.
    """

    def __init__(self, labels: Sequence[str], top: int = 12) -> None:
        self.labels = tuple(labels)
        self.top = top
        self.colours = class_colours(len(self.labels))

    def __call__(self, image: npt.NDArray[Any], class_prediction: npt.NDArray[Any]) -> Image.Image:
        """Draw one picture.

        Args:
            image: (H, W, C), C 1 or 3, uint8 or float in [0, 1].
            class_prediction: (h, w) integers, no larger than the image: what lies right of it and below, as the legend
                of another head, stays as it is, and so do pixels with a class outside [0, K).

        Returns:
            The picture with the legend under it, at least 320 pixels wide; the image stays where it is and as large.

        Raises:
            BrickInputError: The classes are of more pixels than the image has.
        """
        picture = to_image(image)
        height, width = class_prediction.shape
        if height > picture.height or width > picture.width:
            expected = f"class_prediction (H, W) within {(picture.height, picture.width)}"
            raise BrickInputError("draw_segmentation", expected, f"{(height, width)}")
        known = (class_prediction >= 0) & (class_prediction < len(self.labels))
        pixels = np.bincount(class_prediction[known], minlength=len(self.labels))
        order = np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]
        legend = [(int(index), float(pixels[index]) / known.size) for index in order[: self.top]]
        picture.paste(self._coloured(picture.crop((0, 0, width, height)), class_prediction, known))
        return self._with_legend(picture, legend, left_out=len(order) - len(legend))

    def _coloured(self, picture: Image.Image, classes: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> Image.Image:
        shown = np.array([label != "background" for label in self.labels])
        index = np.where(known, classes, 0)
        opacity = np.where(known & shown[index], np.where(_borders(classes), 1.0, _OPACITY), 0.0)[..., None]
        mixed = np.asarray(picture) * (1 - opacity) + self.colours[index] * opacity
        return Image.fromarray(np.rint(mixed).astype(np.uint8))

    def _with_legend(self, picture: Image.Image, legend: list[tuple[int, float]], left_out: int) -> Image.Image:
        width = max(picture.width, MIN_WIDTH)
        row = max(18, width // 40)
        columns = max(width // max(_ENTRY_WIDTH, row * 8), 1)
        entries = len(legend) + bool(left_out)
        size = (width, picture.height + row * -(-entries // columns) + row // 2)
        canvas = Image.new("RGB", size, BACKGROUND)
        canvas.paste(picture)
        draw = ImageDraw.Draw(canvas)
        font = ImageFont.load_default(size=round(row * 0.62))
        for place in range(entries):
            left = row // 4 + place % columns * (width // columns)
            top = picture.height + row // 4 + place // columns * row
            if place == len(legend):
                draw.text((left, top + row // 2), f"and {left_out} more", font=font, fill=TEXT, anchor="lm")
                continue
            index, share = legend[place]
            swatch = (left, top + 3, left + row - 6, top + row - 4)
            plain = self.labels[index] == "background"
            draw.rectangle(swatch, fill=None if plain else tuple(self.colours[index].tolist()), outline=TEXT)
            text = f"{share:.1%}"
            right = left + width // columns - row // 2
            room = right - draw.textlength(f" {text}", font=font) - left - row
            label = _shortened(self.labels[index], room, draw, font)
            draw.text((left + row, top + row // 2), label, font=font, fill=TEXT, anchor="lm")
            draw.text((right, top + row // 2), text, font=font, fill=TEXT, anchor="rm")
        return canvas


def class_colours(count: int) -> npt.NDArray[np.uint8]:
    """Colours (count, 3) that differ: the hue turns by the golden ratio, which keeps neighbours apart."""
    colours = [
        colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.85, 0.6)[index // 2 % 2], (0.95, 0.75)[index % 2])
        for index in range(count)
    ]
    rounded: npt.NDArray[np.uint8] = np.rint(np.array(colours) * 255).astype(np.uint8)
    return rounded


def stretched(classes: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """The classes of pixels (h, w) on a picture of another size, (height, width): the nearest."""
    rows = np.arange(height) * classes.shape[0] // height
    columns = np.arange(width) * classes.shape[1] // width
    taken: npt.NDArray[Any] = classes[rows[:, None], columns]
    return taken


def _borders(classes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether a pixel's class differs from the one below or to the right."""
    borders = np.zeros(classes.shape, dtype=bool)
    borders[:-1] |= classes[:-1] != classes[1:]
    borders[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    return borders


def _shortened(label: str, room: float, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """The label, or as much of it as fits in `room` pixels."""
    if draw.textlength(label, font=font) <= room:
        return label
    while label and draw.textlength(f"{label}...", font=font) > room:
        label = label[:-1]
    return f"{label}..."
