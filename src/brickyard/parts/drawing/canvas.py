"""What the visualizations share: images from arrays, the colour of a class, fonts, and the legend below an image."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from brickyard.core.conversions import float2uint8

Color = tuple[int, int, int]

BACKGROUND: Color = (24, 26, 31)
TEXT: Color = (240, 240, 240)
UNCOLORED = "background"  # the name of the class that is not coloured
MIN_WIDTH = 320  # pixels, for readable labels
FARTHEST = 3e4  # pixels: Pillow cannot draw much farther, and float16 has no larger numbers
_MAX_ENTRIES = 12  # classes in a legend of objects
_OUTLINE: Color = (0, 0, 0)
_MIN_ROW = 18  # pixels, of a legend
_ROWS_PER_SIDE = 40  # of a legend as high as the longer side of the image: readable when the whole image is on a screen
_HUE_STEP = 0.618034  # the golden ratio, which gives neighbouring classes distant hues for any number of classes


@final
@dataclass(frozen=True)
class Entry:
    """An entry of a legend.

    Attributes:
        text: On the left; truncated if it does not fit.
        value: On the right.
        color: Of the square before the text; None for an outline.
        has_square: Whether there is a square.
    """

    text: str
    value: str = ""
    color: Color | None = None
    has_square: bool = True


def to_image(image: npt.NDArray[Any]) -> Image.Image:
    """Convert an array (H, W, 3) or (H, W, 1), uint8 or float in [0, 1], to an RGB image."""
    pixels = float2uint8(image)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]).convert("RGB")


def class_colors(labels: Sequence[str]) -> list[Color]:
    """Return the colour of each class, the same for every task of a data set.

    The colour depends on the position among the classes without "background", which only masks have.
    """
    colors: list[Color] = []
    position = 0
    for label in labels:
        colors.append(BACKGROUND if label == UNCOLORED else _color(position))
        position += label != UNCOLORED
    return colors


def _color(position: int) -> Color:
    hue, saturation = position * _HUE_STEP % 1, (0.85, 0.6)[position // 2 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, (0.95, 0.75)[position % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def text_color(color: Color) -> Color:
    """Choose black or white text for a background colour by its luma (ITU-R BT.601)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def row_height(image: Image.Image) -> int:
    """Return the height of a row of text for an image, in pixels."""
    return max(_MIN_ROW, round(max(image.size) / _ROWS_PER_SIDE))


def font_for(row: int) -> Any:
    """Return the font for a row of text of this height in pixels."""
    return ImageFont.load_default(size=max(9, round(row * 0.62)))


def below(image: Image.Image, height: int) -> Image.Image:
    """Return the image on a dark canvas with `height` more pixels below, at least 320 pixels wide."""
    canvas = Image.new("RGB", (max(image.width, MIN_WIDTH), image.height + height), BACKGROUND)
    canvas.paste(image)
    return canvas


def with_legend(image: Image.Image, entries: Sequence[Entry]) -> Image.Image:
    """Return the image with a legend below, in as many columns as fit."""
    if not entries:
        return image
    row = row_height(image)
    width = max(image.width, MIN_WIDTH)
    columns = max(width // (row * 8), 1)
    canvas = below(image, row * -(-len(entries) // columns) + row // 2)
    draw, font = ImageDraw.Draw(canvas), font_for(row)
    for number, entry in enumerate(entries):
        left = row // 4 + number % columns * (width // columns)
        top = image.height + row // 4 + number // columns * row
        right, middle = left + width // columns - row // 2, top + row // 2
        if entry.has_square:
            inset = row // 6
            square = (left, top + inset, left + row - 2 * inset, top + row - inset)
            draw.rectangle(square, fill=entry.color, outline=TEXT)
            left += row
        max_width = right - left - (draw.textlength(f" {entry.value}", font=font) if entry.value else 0)
        draw.text((left, middle), shorten(entry.text, max_width, draw, font), font=font, fill=TEXT, anchor="lm")
        draw.text((right, middle), entry.value, font=font, fill=TEXT, anchor="rm")
    return canvas


def class_entries(
    names: Sequence[str], colors: Sequence[Color], labels: npt.NDArray[Any], scores: npt.NDArray[Any]
) -> list[Entry]:
    """Return an entry per class with the number of its objects or the score of its only one, best first.

    Args:
        names: The K class names.
        colors: Their colours.
        labels: (N,), the class of each object, best first.
        scores: (N,), in [0, 1].
    """
    classes = list(dict.fromkeys(int(label) for label in labels))
    entries = []
    for label in classes[:_MAX_ENTRIES]:
        of_class = scores[labels == label]
        value = f"{of_class[0]:.0%}" if len(of_class) == 1 else f"x {len(of_class)}"
        entries.append(Entry(names[label], value, colors[label]))
    if len(classes) > len(entries):
        entries.append(Entry(f"and {len(classes) - len(entries)} more", has_square=False))
    return entries


def draw_dot(draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, color: Color) -> None:
    """Draw a dot with a black outline around it."""
    x, y = center
    outer = radius * 1.4
    draw.ellipse((x - outer, y - outer, x + outer, y + outer), fill=_OUTLINE)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def side_by_side(images: Mapping[str, Image.Image]) -> Image.Image:
    """Arrange images from left to right, each below its caption."""
    row = max(map(row_height, images.values()))
    gap = row // 4
    width = sum(image.width for image in images.values()) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width, row + max(image.height for image in images.values())), BACKGROUND)
    draw, font, left = ImageDraw.Draw(canvas), font_for(row), 0
    for caption, image in images.items():
        draw.text((left + gap, row // 2), caption, font=font, fill=TEXT, anchor="lm")
        canvas.paste(image, (left, row))
        left += image.width + gap
    return canvas


def shorten(text: str, max_width: float, draw: ImageDraw.ImageDraw, font: Any) -> str:
    """Truncate a text to `max_width` pixels."""
    if draw.textlength(text, font=font) <= max_width:
        return text
    while text and draw.textlength(f"{text}...", font=font) > max_width:
        text = text[:-1]
    return f"{text}..."
