"""Tiny images of colored rectangles on disk, and the pixels of a color in an image."""

import numpy as np
import torch
from PIL import Image

from brickyard.data.transforms import Augment, Augmented

BACKGROUND = (0, 120, 40)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def scene(width, height, objects):
    """Rectangles {color: (x1, y1, x2, y2)} on a background, (H, W, 3) uint8."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:] = BACKGROUND
    for color, (x1, y1, x2, y2) in objects.items():
        pixels[y1:y2, x1:x2] = color
    return pixels


def save_image(file, pixels, orientation=1):
    """Save a JPEG in which the colors are still distinct."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0, exif=exif)


def save_mask(file, classes):
    """Save a PNG with a palette, as in VOC."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(classes, dtype=np.uint8))
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 40)])
    image.save(file)


def augmented(data):
    """A data set with the transforms of training, 64x64."""
    return Augmented(data, Augment(64, data.kinds, train=True))


def pixels_of(image, color):
    """The pixels of an image (3, H, W) that have a color, (H, W) bool."""
    distance = image.to(torch.int64) - torch.tensor(color)[:, None, None]
    return torch.as_tensor(distance).abs().amax(dim=0) < 60


def box_around(pixels):
    """The box around pixels (H, W) bool, [x1, y1, x2, y2], up to the far side of the last pixel."""
    rows, columns = pixels.any(dim=1).nonzero().flatten(), pixels.any(dim=0).nonzero().flatten()
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]
