"""Read safetensors files into memory of the process.

Tensors do not map the file: a file that is replaced, changed or truncated afterwards changes no loaded model, and no
descriptor or mapping stays open. Each tensor has an allocation of its own, so that it is aligned as a new one is and is
stored, copied and pickled alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from brickyard.errors import BrickIntegrityError
from brickyard.storage.integrity import is_verified, note_verified
from brickyard.storage.regular import open_regular

SUFFIX = ".safetensors"
DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_LENGTH = 8  # bytes of the length of the header
_LARGEST_HEADER = 100_000_000  # bytes, as in the safetensors library


@final
class TensorFile:
    """An open safetensors file.

    Args:
        file: The path, for messages.
        stream: The file, at its start.

    Attributes:
        header: Its tensors on the meta device, in the order of their bytes.

    Raises:
        BrickIntegrityError: The file is truncated or not a safetensors file.
    """

    def __init__(self, file: Path, stream: FileIO) -> None:
        self._file = file
        self._stream = stream
        self._status = os.fstat(stream.fileno())
        try:
            self._start, self.header = self._read_header()
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
            raise BrickIntegrityError(
                f"{file} is truncated or not a safetensors file ({str(error)[:200]}). Download it again."
            ) from None

    def read(self, sha256: str | None = None) -> dict[str, Tensor]:
        """Return the tensors.

        Args:
            sha256: The expected hash of the file, in hex; None for any. The bytes that are returned are those that are
                hashed, unless the file was hashed before and has not changed since, see `integrity.is_verified`.

        Raises:
            BrickIntegrityError: The file has another hash, or changed while it was read.
        """
        hashed = None if sha256 is None or is_verified(self._status, sha256) else hashlib.sha256(self._start)
        tensors = {}
        for name, each in self.header.items():
            tensor = tensors[name] = torch.empty(each.shape, dtype=each.dtype, device="cpu")
            content = tensor.view(-1).view(torch.uint8).numpy().data if each.numel() else memoryview(b"")
            self._fill(content)
            if hashed is not None:
                hashed.update(content)
        if _times(os.fstat(self._stream.fileno())) != _times(self._status):
            raise BrickIntegrityError(f"{self._file} changed while it was read. Load it again.")
        if hashed is not None and sha256 is not None:
            if hashed.hexdigest() != sha256:
                raise BrickIntegrityError(
                    f"{self._file} has the sha256 {hashed.hexdigest()}, expected {sha256}. Download it again."
                )
            note_verified(self._status, sha256)
        return tensors

    def _read_header(self) -> tuple[bytes, dict[str, Tensor]]:
        size = self._status.st_size
        length = self._exactly(_LENGTH)
        count = int.from_bytes(length, "little")
        if count > min(_LARGEST_HEADER, size - _LENGTH):
            raise ValueError(f"a header of {count} bytes in a file of {size}")
        text = self._exactly(count)
        entries: dict[str, Any] = json.loads(text)
        entries.pop("__metadata__", None)
        header: dict[str, Tensor] = {}
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, shape = end, entry["shape"]
            dtype = DTYPES[entry["dtype"]]
            if not all(type(length) is int and length >= 0 for length in shape):
                raise ValueError(f"'{name}' has the shape {shape}")
            end += prod(shape) * dtype.itemsize
            if entry["data_offsets"] != [begin, end]:
                raise ValueError(f"'{name}' is at {entry['data_offsets']}, expected {[begin, end]}")
            if _LENGTH + count + end > size:
                raise ValueError(f"'{name}' ends after the {size} bytes of the file")
            header[name] = torch.empty(shape, dtype=dtype, device="meta")
        if _LENGTH + count + end != size:
            raise ValueError(f"{size} bytes, expected {_LENGTH + count + end}")
        return length + text, header

    def _exactly(self, count: int) -> bytes:
        content = bytearray(count)
        self._fill(memoryview(content))
        return bytes(content)

    def _fill(self, content: memoryview) -> None:
        while content.nbytes:
            count = self._stream.readinto(content)
            if not count:
                raise BrickIntegrityError(f"{self._file} is truncated. Download it again.")
            content = content[count:]


@contextmanager
def open_tensors(file: Path, size: int | None = None) -> Iterator[TensorFile]:
    """Open a safetensors file; only its header is read.

    Args:
        file: The file; links are followed.
        size: The expected size in bytes, None for any.

    Raises:
        BrickIntegrityError: The file has another size, or is truncated or not a safetensors file.
        UnsafeBrickError: It is not a regular file.
    """
    with open_regular(file) as stream:
        found = os.fstat(stream.fileno()).st_size
        if size is not None and found != size:
            raise BrickIntegrityError(f"{file} has {found} bytes, expected {size}. Download it again.")
        yield TensorFile(file, stream)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Load a safetensors file that has no stated hash; errors as for `open_tensors`."""
    with open_tensors(file) as opened:
        return opened.read()


def _times(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
