"""Arrange images in a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from brickyard.parts.drawing.canvas import BACKGROUND, TEXT, font_for, row_height, shorten

_GAP = 8  # pixels between two images


def contact_sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Arrange images of any sizes in rows, each below its caption.

    Args:
        images: One image or more, from left to right and from top to bottom.
        captions: A line of text for each.
        columns: The number of images in a row.

    Returns:
        The sheet. All columns are as wide as the widest image, and a row is as high as its highest one.
    """
    columns = min(columns, len(images))
    caption, width = max(map(row_height, images)), max(image.width for image in images)
    rows = [range(first, min(first + columns, len(images))) for first in range(0, len(images), columns)]
    heights = [caption + max(images[index].height for index in row) + _GAP for row in rows]
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, sum(heights) + _GAP), BACKGROUND)
    draw, font, top = ImageDraw.Draw(sheet), font_for(caption), _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = _GAP + column * (width + _GAP)
            text = shorten(captions[index], width, draw, font)
            draw.text((left, top + caption // 2), text, font=font, fill=TEXT, anchor="lm")
            sheet.paste(images[index], (left, top + caption))
        top += height
    return sheet
