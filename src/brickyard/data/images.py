"""Reading pictures of any kind that Pillow reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from brickyard.errors import BrickInputError

MIN_SIDE = 8  # pixels: less is no picture of anything
MAX_ASPECT = 100  # a resize of the shorter side to 256 pixels would make the longer one endless

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """The picture files at `sources`: a file is taken whatever its name, a folder is searched by known endings.

    Raises:
        BrickInputError: A place that is not there, or a folder without pictures.
    """
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found: list[Path] = []
    for place in map(Path, sources):
        if place.is_dir():
            inside = [file for file in sorted(place.rglob("*")) if file.suffix.lower() in endings and file.is_file()]
            if not inside:
                raise BrickInputError(str(place), "pictures in this folder", "none", "Known endings: .jpg, .png, ...")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise BrickInputError(str(place), "a picture or a folder of pictures", "nothing there")
    return list(dict.fromkeys(found))


def read_image(file: str | Path) -> Image.Image:
    """Read a picture as RGB, upright by its EXIF rotation; grey of 16 bits is scaled, transparency becomes white.

    Raises:
        BrickInputError: It cannot be read, is cut short, or is too small, too narrow or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's error at twice the size stays
            if isinstance(file, (str, Path)) and os.path.exists(file) and not os.path.isfile(file):
                raise BrickInputError(str(file), "a picture", "no regular file")  # a pipe would wait for ever
            with Image.open(file) as opened:
                picture = _as_rgb(ImageOps.exif_transpose(opened), file)
    except BrickInputError:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        hint = "Is it complete, and a picture?"
        raise BrickInputError(str(file), "a picture", f"{type(error).__name__}: {error}", hint) from None
    short, long = sorted(picture.size)
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        expected = f"a picture of at least {MIN_SIDE}x{MIN_SIDE} pixels and at most {MAX_ASPECT}:1"
        raise BrickInputError(str(file), expected, f"{picture.width}x{picture.height}")
    return picture


def _as_rgb(picture: Image.Image, file: str | Path) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep_grey(picture, file).convert("RGB")
    if picture.mode in _ALPHA_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _from_deep_grey(picture: Image.Image, file: str | Path) -> Image.Image:
    """Grey of more than 8 bits: [0, 65535] as integers, [0, 1] as floats."""
    pixels = np.asarray(picture).astype(np.float64)
    scale = 1.0 if picture.mode == "F" else 65535.0
    if not (pixels.min() >= 0 and pixels.max() <= scale):
        found = f"values from {pixels.min():.4g} to {pixels.max():.4g}"
        raise BrickInputError(str(file), f"grey values in [0, {scale:g}]", found)
    return Image.fromarray(np.rint(pixels / scale * 255).astype(np.uint8))
