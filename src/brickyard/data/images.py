"""Read images of every format that Pillow reads."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from brickyard.data.reading import damage_as_input_error
from brickyard.errors import BrickInputError

MIN_SIDE = 8  # pixels
MAX_ASPECT = 100  # a larger ratio would make the longer side huge when the shorter one is resized to 256 pixels

# Formats of photos that Pillow may not read: with a plugin, or in a newer version, it reads some of them.
_UNREADABLE_SUFFIXES = frozenset(
    (".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raf", ".rw2", ".svg")
)
_log = logging.getLogger(__name__)
IMAGE_HINT = "Is the file complete, and an image?"
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """List the image files at `sources`: a file is taken whatever its name, a folder is searched by known suffixes.

    Hidden files and folders, whose names start with a dot, are not searched. Images in formats that Pillow does not
    read, and linked folders, are left out with a logged warning that counts them.

    Raises:
        BrickInputError: A source does not exist, or is a folder without images.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside, left_out = _search(source)
            reasons = " and ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            if not inside:
                hint = f"Left out: {reasons}." if reasons else "Known suffixes: .jpg, .png, ..."
                raise BrickInputError(str(source), "images in this folder", "none", hint)
            if reasons:
                _log.warning("%s: left out %s.", source, reasons)
            files += inside
        elif source.is_file():
            files.append(source)
        else:
            raise BrickInputError(str(source), "an image or a folder of images", "no such file")
    return list(dict.fromkeys(files))


def _search(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the images below a folder, sorted, and what was left out with its count."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images: list[Path] = []
    left_out: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        left_out.update("linked folders" for name in folders if os.path.islink(os.path.join(parent, name)))
        for file in (Path(parent, name) for name in names if not name.startswith(".")):
            suffix = file.suffix.lower()
            if suffix in suffixes and file.is_file():
                images.append(file)
            elif suffix in _UNREADABLE_SUFFIXES - suffixes:
                left_out[f"{suffix} images, which Pillow does not read"] += 1
    return sorted(images), left_out


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise `BrickInputError` for an image of (width, height) that is too small or too narrow."""
    short, long = sorted(size)
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        expected = f"an image of at least {MIN_SIDE}x{MIN_SIDE} pixels and an aspect ratio of at most {MAX_ASPECT}:1"
        raise BrickInputError(name, expected, f"{size[0]}x{size[1]}")


def read_image(file: str | Path) -> Image.Image:
    """Read an image as RGB, upright by its EXIF orientation; 16-bit grey is scaled to 8 bits, transparency is white.

    Raises:
        BrickInputError: The file is missing, damaged or truncated, or the image is too small, too narrow or too large.
        OSError, MemoryError: The machine failed, e.g. with too many open files: the file may be sound.
    """
    with damage_as_input_error(str(file), "an image", IMAGE_HINT), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's error at twice the size stays
        if isinstance(file, (str, Path)) and os.path.exists(file) and not os.path.isfile(file):
            raise BrickInputError(str(file), "an image", "no regular file")  # reading a pipe could block forever
        with Image.open(file) as opened:
            return upright_rgb(opened, str(file))


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert an image to RGB as `read_image` does.

    Args:
        image: An image of any mode; it is not modified.
        name: The name of the image, for error messages.

    Raises:
        BrickInputError: The image is damaged, too small or too narrow, or its grey values are out of range.
    """
    with damage_as_input_error(name, "an image", IMAGE_HINT):
        image = _as_rgb(ImageOps.exif_transpose(image), name)
    check_size(image.size, name)
    return image


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image, name).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image, name: str) -> Image.Image:
    """Convert grey of more than 8 bits, integers in [0, 65535] or floats in [0, 1], to 8 bits."""
    pixels = np.asarray(image).astype(np.float64)
    scale = 1.0 if image.mode == "F" else 65535.0
    if not (pixels.min() >= 0 and pixels.max() <= scale):
        value_range = f"values from {pixels.min():.4g} to {pixels.max():.4g}"
        raise BrickInputError(name, f"grey values in [0, {scale:g}]", value_range)
    return Image.fromarray(np.rint(pixels / scale * 255).astype(np.uint8))
