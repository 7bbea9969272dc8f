"""Images to predict: files, folders, patterns, URLs, encoded bytes, and images in memory, in any mixture."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, final
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from brickyard.core.conversions import float2uint8, torch_to_numpy
from brickyard.data.images import find_images, read_image, upright_rgb
from brickyard.errors import BrickInputError

ImageInput = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | Tensor

_URLS = ("http://", "https://")
_WILDCARDS = frozenset("*?[")
_MAX_DOWNLOAD = 64 << 20  # bytes of an encoded image
_TIMEOUT, _DEADLINE = 10.0, 60.0  # seconds without a byte, and of a whole download
_TYPES = "a path, folder, pattern or URL, bytes, a Pillow image, an array (H, W, 3) uint8, or a tensor (3, H, W)"


@final
class ImageSource(NamedTuple):
    """The source of an image.

    Attributes:
        name: The name of the image in results and errors.
        data: The path of a file, a URL, encoded bytes, or an image; None if there is none of them.
        problem: Why there is no data.
    """

    name: str
    data: str | bytes | Image.Image | None
    problem: str = "no data"

    @property
    def file(self) -> Path | None:
        """The path of the file, None if the image is not a file."""
        return Path(self.data) if isinstance(self.data, str) and not self.data.startswith(_URLS) else None


def find_files(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the image files at paths, in folders and of patterns such as "photos/**/*.jpg", each once.

    Raises:
        BrickInputError: A source does not exist, a folder has no images, or a pattern matches nothing.
    """
    paths: list[Path] = []
    for path in (Path(source).expanduser() for source in sources):
        if os.path.lexists(path) or not _WILDCARDS & set(str(path)):
            paths.append(path)
        elif matches := sorted(glob.glob(str(path), recursive=True)):
            paths += map(Path, matches)
        else:
            raise BrickInputError(str(path), "a pattern that matches images", "no match")
    return find_images(paths)


def image_sources(sources: ImageInput | Iterable[ImageInput]) -> Iterable[ImageSource]:
    """Return the sources of images; they are not read yet, and URLs are not requested yet.

    Args:
        sources: One item or several, see `Predictor.predict`. A sequence is checked at once, any other iterable item by
            item while the result is iterated over.

    Raises:
        BrickInputError: An item has a wrong type or shape, or does not exist.
    """
    if isinstance(sources, str | os.PathLike | bytes | Image.Image | np.ndarray | Tensor):
        return list(_of_item(sources, "sources"))
    if not isinstance(sources, Iterable):
        raise BrickInputError("sources", f"{_TYPES}, or several", type(sources).__name__)
    expanded = _each_once(sources)
    return list(expanded) if isinstance(sources, Sequence) else expanded


def open_image(source: ImageSource) -> Image.Image:
    """Read an image as RGB, see `read_image`; a URL is downloaded.

    Raises:
        BrickInputError: There is no image, or it cannot be read.
        OSError, MemoryError: The machine failed, see `read_image`.
    """
    if source.data is None:
        raise BrickInputError(source.name, "an image", source.problem)
    if isinstance(source.data, Image.Image):
        return upright_rgb(source.data, source.name)
    if isinstance(source.data, str) and not source.data.startswith(_URLS):
        return read_image(source.data)
    data = _download(source.data) if isinstance(source.data, str) else source.data
    file: Any = _NamedBytes(data, source.name)
    return read_image(file)


def _each_once(sources: Iterable[ImageInput]) -> Iterator[ImageSource]:
    """Expand items, leaving out files and URLs that came before."""
    seen = set()
    for index, item in enumerate(sources):
        for source in _of_item(item, f"sources[{index}]"):
            if not isinstance(source.data, str):
                yield source
            elif source.data not in seen:
                seen.add(source.data)
                yield source


def _of_item(item: ImageInput, name: str) -> Iterator[ImageSource]:
    if isinstance(item, str) and item.startswith(_URLS):
        yield ImageSource(item, item)
    elif isinstance(item, str | os.PathLike):
        yield from (ImageSource(str(file), str(file)) for file in find_files([item]))
    elif isinstance(item, bytes):
        yield ImageSource(name, item)
    elif isinstance(item, Image.Image):
        yield ImageSource(getattr(item, "filename", "") or name, item)
    elif isinstance(item, np.ndarray):
        yield ImageSource(name, _from_array(item, name))
    elif isinstance(item, Tensor):
        yield ImageSource(name, _from_tensor(item, name))
    else:
        raise BrickInputError(name, _TYPES, type(item).__name__)


def _from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = "Pass tensors for (C, H, W) or floats, and a list of images for a batch."
        expected = "an array (H, W) or (H, W, C), C 1, 3 or 4, uint8"
        raise BrickInputError(name, expected, f"{array.shape} {array.dtype}", hint)
    if not array.size:  # older versions of Pillow refuse to convert it; its size is checked when it is read
        return Image.new("RGB", (array.shape[1], array.shape[0]))
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _from_tensor(tensor: Tensor, name: str) -> Image.Image:
    is_float = tensor.is_floating_point()
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or not (is_float or tensor.dtype == torch.uint8):
        hint = "Pass arrays for (H, W, C), and a list of images for a batch."
        expected = "a tensor (C, H, W), C 1 or 3, uint8 or float in [0, 1]"
        raise BrickInputError(name, expected, f"{tuple(tensor.shape)} {tensor.dtype}", hint)
    if is_float and not bool(((tensor >= 0) & (tensor <= 1)).all()):
        values = f"values from {float(tensor.min()):.4g} to {float(tensor.max()):.4g}"
        raise BrickInputError(name, "floats in [0, 1]", values, "Pass the image before normalization.")
    array = torch_to_numpy((tensor.float() if is_float else tensor).permute(1, 2, 0))
    return _from_array(float2uint8(array), name)


def _download(url: str) -> bytes:
    """Download an encoded image of limited size, in limited time."""
    end = time.monotonic() + _DEADLINE
    data = bytearray()
    try:
        with urlopen(Request(url, headers={"User-Agent": "brickyard"}), timeout=_TIMEOUT) as response:
            while chunk := response.read1(1 << 16):
                data += chunk
                if len(data) > _MAX_DOWNLOAD:
                    raise BrickInputError(url, f"an image of at most {_MAX_DOWNLOAD >> 20} MiB", "a larger file")
                if time.monotonic() > end:
                    raise BrickInputError(url, f"an image within {_DEADLINE:.0f} seconds", f"{len(data)} bytes so far")
    except BrickInputError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise BrickInputError(url, "an image", f"{type(error).__name__}: {error}") from None
    return bytes(data)


@final
class _NamedBytes(BytesIO):
    """An encoded image in memory, whose name appears in errors."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self._name = name

    def __repr__(self) -> str:
        return self._name
