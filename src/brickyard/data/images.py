"""Read images of every format that Pillow reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from brickyard.errors import BrickInputError

MIN_SIDE = 8  # pixels
MAX_ASPECT = 100  # a larger ratio would make the longer side huge when the shorter one is resized to 256 pixels

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """List the image files at `sources`: a file is taken whatever its name, a folder is searched by known suffixes.

    Raises:
        BrickInputError: A source does not exist, or is a folder without images.
    """
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [file for file in sorted(source.rglob("*")) if file.suffix.lower() in suffixes and file.is_file()]
            if not inside:
                raise BrickInputError(str(source), "images in this folder", "none", "Known suffixes: .jpg, .png, ...")
            files += inside
        elif source.is_file():
            files.append(source)
        else:
            raise BrickInputError(str(source), "an image or a folder of images", "no such file")
    return list(dict.fromkeys(files))


def read_image(file: str | Path) -> Image.Image:
    """Read an image as RGB, upright by its EXIF orientation; 16-bit grey is scaled to 8 bits, transparency is white.

    Raises:
        BrickInputError: The file cannot be read or is truncated, or the image is too small, too narrow or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's error at twice the size stays
            if isinstance(file, (str, Path)) and os.path.exists(file) and not os.path.isfile(file):
                raise BrickInputError(str(file), "an image", "no regular file")  # reading a pipe could block forever
            with Image.open(file) as opened:
                image = _as_rgb(ImageOps.exif_transpose(opened), file)
    except BrickInputError:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        hint = "Is the file complete, and an image?"
        raise BrickInputError(str(file), "an image", f"{type(error).__name__}: {error}", hint) from None
    short, long = sorted(image.size)
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        expected = f"an image of at least {MIN_SIDE}x{MIN_SIDE} pixels and an aspect ratio of at most {MAX_ASPECT}:1"
        raise BrickInputError(str(file), expected, f"{image.width}x{image.height}")
    return image


def _as_rgb(image: Image.Image, file: str | Path) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image, file).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image, file: str | Path) -> Image.Image:
    """Convert grey of more than 8 bits, integers in [0, 65535] or floats in [0, 1], to 8 bits."""
    pixels = np.asarray(image).astype(np.float64)
    scale = 1.0 if image.mode == "F" else 65535.0
    if not (pixels.min() >= 0 and pixels.max() <= scale):
        value_range = f"values from {pixels.min():.4g} to {pixels.max():.4g}"
        raise BrickInputError(str(file), f"grey values in [0, {scale:g}]", value_range)
    return Image.fromarray(np.rint(pixels / scale * 255).astype(np.uint8))
