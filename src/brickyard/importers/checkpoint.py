"""Read and download checkpoints of other libraries, without running code from them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any, final
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch
from torch import Tensor
from tqdm import tqdm

from brickyard.errors import BrickIntegrityError, HubConnectionError, UnsafeBrickError
from brickyard.importers.entry import ImportEntry
from brickyard.storage.atomic import write_atomically
from brickyard.storage.tensor_file import SUFFIX, read_weights

_NESTED = ("state_dict", "model")  # keys of training checkpoints that hold the weights
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 2**20  # bytes


@final
class _Skipped:
    """What replaces a number of numpy in a checkpoint: beside the weights, trainings store such things as an error."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# The names in a pickle of numpy's numbers and their types, and what is made of them instead.
_NUMPY: list[Any] = [
    (_Skipped, name) for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
]


@final
@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint.

    Attributes:
        state: The tensors by name.
        location: The file, or "the state dict".
        sha256: The hash of the file, None for a state dict.
        is_published: Whether it is the file that the source publishes: by its hash, or, if that is unknown, because it
            was downloaded.
    """

    state: dict[str, Tensor]
    location: str
    sha256: str | None
    is_published: bool


def open_checkpoint(entry: ImportEntry, weights: str | Path | Mapping[str, Any] | None) -> Checkpoint:
    """Read a checkpoint from a file or a state dict, or download it.

    Args:
        entry: The model.
        weights: The file or state dict, None for the download. A file with the name of the published one must have its
            hash.

    Raises:
        UnsafeBrickError: A pickle that would run code.
        BrickIntegrityError: Another hash than published, or not a checkpoint.
        HubConnectionError: The download failed.
    """
    if isinstance(weights, Mapping):
        return Checkpoint(_state_of(weights, "the state dict"), "the state dict", None, is_published=False)
    file = _cached(entry) if weights is None else Path(weights)
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        is_published = weights is None if entry.hash_prefix is None else sha256.startswith(entry.hash_prefix)
        if entry.hash_prefix is not None and file.name == entry.file_name and not is_published:
            raise BrickIntegrityError(
                f"{file} has the sha256 {sha256}, expected one that begins with {entry.hash_prefix}. Delete it and "
                f"download it again from {entry.url}."
            )
        stream.seek(0)
        state = read_weights(file) if file.suffix == SUFFIX else _state_of(_load(stream, file), str(file))
    return Checkpoint(state, str(file), sha256, is_published)


def _load(stream: Any, file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UnsafeBrickError(
            f"{file} is refused: it is a pickle with other objects than tensors and plain values, or no checkpoint."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BrickIntegrityError(f"{file} is truncated or not a checkpoint ({str(error)[:200]}).") from None


def _state_of(loaded: Any, location: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the one that a training checkpoint holds."""
    if isinstance(loaded, Mapping):
        nested = next((loaded[key] for key in _NESTED if isinstance(loaded.get(key), Mapping)), loaded)
        if nested and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in nested.items()):
            return dict(nested)
    raise BrickIntegrityError(f"{location} is not a checkpoint: expected tensors by name.")


def _cached(entry: ImportEntry) -> Path:
    """Return the checkpoint in torch's cache, where it is downloaded to if it is absent."""
    file = Path(torch.hub.get_dir(), "checkpoints", entry.file_name)
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as temp:
        try:
            sha256 = _download(entry.url, temp)
        except (URLError, HTTPException, ConnectionError, TimeoutError, SSLError) as error:
            raise HubConnectionError(
                f"'{entry.source}' cannot be downloaded ({str(error)[:200]}). Download {entry.url} on another machine, "
                f"and import '{entry.source}' (import_model, brickyard import) from the file with "
                f"weights='{entry.file_name}'."
            ) from None
        if entry.hash_prefix is not None and not sha256.startswith(entry.hash_prefix):
            raise BrickIntegrityError(
                f"{entry.url} has the sha256 {sha256}, expected one that begins with {entry.hash_prefix}. Nothing was "
                "kept: it has changed, or was changed on the way."
            )
    return file


def _download(url: str, file: Path) -> str:
    """Download a file and return its sha256.

    Raises:
        URLError, HTTPException, ConnectionError, TimeoutError, SSLError: The download failed or ended early.
    """
    digest = hashlib.sha256()
    with urlopen(Request(url, headers={"User-Agent": "brickyard"}), timeout=_TIMEOUT) as response:
        size = int(response.headers.get("Content-Length") or 0)
        with file.open("wb") as stream, tqdm(total=size or None, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
            if stream.tell() < size:
                raise ConnectionError(f"the connection was closed after {stream.tell()} of {size} bytes")
    return digest.hexdigest()
