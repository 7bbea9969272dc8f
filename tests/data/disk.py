"""Tiny pictures of coloured rectangles on disk, and where a colour is on what was read."""

import numpy as np
import torch
from PIL import Image

GROUND = (0, 120, 40)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def scene(width, height, objects):
    """Rectangles {colour: (x1, y1, x2, y2)} on a ground, (H, W, 3) uint8."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:] = GROUND
    for colour, (x1, y1, x2, y2) in objects.items():
        pixels[y1:y2, x1:x2] = colour
    return pixels


def save_picture(file, pixels, orientation=1):
    """A JPEG in which the colours can still be told."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0, exif=exif)


def save_mask(file, classes):
    """A PNG with a palette, as VOC has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(classes, dtype=np.uint8))
    picture.putpalette([value for index in range(256) for value in (index, 255 - index, 40)])
    picture.save(file)


def pixels_of(image, colour):
    """Where an image (3, H, W) has a colour, (H, W) bool."""
    away = image.to(torch.int64) - torch.tensor(colour)[:, None, None]
    return torch.as_tensor(away).abs().amax(dim=0) < 60


def box_around(pixels):
    """The box of pixels (H, W) bool, [x1, y1, x2, y2], with the end of the last pixel as its right and lower side."""
    rows, columns = pixels.any(dim=1).nonzero().flatten(), pixels.any(dim=0).nonzero().flatten()
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]
