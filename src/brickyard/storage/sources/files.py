"""Where stored bricks are read from: a folder, a lock, or (in `hub_files.py`) a repo of the Hub at one commit."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from brickyard.errors import BrickError, BrickNotFoundError, UnsafeBrickError
from brickyard.storage.atomic import PRIVATE, current, removed
from brickyard.storage.config import well_formed
from brickyard.storage.integrity import check_file
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.weights import SUFFIX, read_weights, refuse_pickle

MOST = 8_000_000  # bytes: no JSON of a brick is larger
_SMALL = 2**16  # bytes


@final
@dataclass(frozen=True)
class Access:
    """How the Hub is asked.

    Attributes:
        token: As huggingface_hub takes it.
        local_files_only: Not at all: only its cache is looked into.
    """

    token: str | bool | None = None
    local_files_only: bool = False


DEFAULT_ACCESS = Access()  # with the token that huggingface_hub knows


class Files(ABC):
    """Files by their names, such as `seg/head.json`.

    Args:
        access: How references to the Hub are followed.
    """

    def __init__(self, access: Access) -> None:
        self.access = access

    @property
    @abstractmethod
    def location(self) -> str:
        """What they are called in errors."""

    @abstractmethod
    def peek(self, name: str) -> bytes:
        """The content of a small file.

        Raises:
            BrickNotFoundError: There is none.
            UnsafeBrickError: It is too large for a JSON.
        """

    @abstractmethod
    def file(self, name: str) -> Path:
        """A file on disk; it is fetched if it has to be.

        Raises:
            BrickNotFoundError: There is none.
        """

    def fetch(self, names: Sequence[str]) -> None:  # noqa: B027 - a folder has them already
        """Have several files on disk, for now and for a later start without network."""

    def uri(self, path: str) -> str | None:
        """Where the brick at `path` is published, None if it is only here."""
        return None

    def unlisted(self, known: Sequence[str]) -> list[str]:
        """Bricks that are here and not among the known, as they were copied in by hand."""
        return []

    def with_hashes(self, path: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """A brick's JSON with every hash in it; only what another library stored lacks some, until it is fetched."""
        return config

    def discard(self, name: str) -> None:  # noqa: B027 - a folder is the user's own
        """Remove a file that is wrong from the cache."""

    @contextmanager
    def discarding(self, name: str) -> Iterator[None]:
        """Remove a file that turns out wrong from the cache, so that it is fetched anew next time."""
        try:
            yield
        except BrickError:
            self.discard(name)
            raise

    def tensors(self, path: str, sha256: str, size: int) -> dict[str, Tensor]:
        """The weights of the brick at `path`, checked and mapped.

        Raises:
            BrickNotFoundError: There are none.
            UnsafeBrickError: They are pickled.
            BrickIntegrityError, BrickMismatchError: They are not what the brick's JSON says, or no weights.
        """
        return aligned_weights(self.checked(f"{path}{SUFFIX}", sha256, size))

    def checked(self, name: str, sha256: str, size: int, *, afresh: bool = False) -> Path:
        """A file on disk with this content; see `check_file`."""
        file = self.file(name)
        with self.discarding(name):
            check_file(file, sha256, size, afresh=afresh)
        return file


@final
class FolderFiles(Files):
    """The files of a folder.

    Args:
        folder: Where they are.
        access: See `Files`.
        model: The name of the zoo model that the folder holds, None for another folder.
    """

    def __init__(self, folder: Path, access: Access, model: str | None = None) -> None:
        super().__init__(access)
        self.folder = folder
        self._model = model

    @property
    def location(self) -> str:
        return str(self.folder)

    def peek(self, name: str) -> bytes:
        return read_small(self.file(name))

    def file(self, name: str) -> Path:
        file = current(self.folder, name)
        if not file.is_file():
            if name.endswith(SUFFIX):
                refuse_pickle(file.with_suffix(""))
            hint = f" A model's folder has {MANIFEST} and a JSON for each brick." if name == MANIFEST else ""
            raise BrickNotFoundError(f"No file {self.folder / name}.{hint}")
        return file

    def uri(self, path: str) -> str | None:
        return f"zoo://{self._model}/{path}" if self._model else None

    def unlisted(self, known: Sequence[str]) -> list[str]:
        if self._model:
            return []
        gone = removed(self.folder)
        paths = [file.relative_to(self.folder).with_suffix("").as_posix() for file in self._jsons()]
        return [path for path in paths if path not in known and f"{path}.json" not in gone and self._is_brick(path)]

    def _jsons(self) -> Iterator[Path]:
        """The JSON files that may be bricks; those of another model in a folder below are its own."""
        for at, folders, names in os.walk(self.folder):
            inside = Path(at)
            folders[:] = sorted(name for name in folders if name != PRIVATE and not (inside / name / MANIFEST).exists())
            files = (inside / name for name in sorted(names) if name.endswith(".json") and name != MANIFEST)
            yield from (file for file in files if file.is_file())  # no pipe, which would be waited for

    def _is_brick(self, path: str) -> bool:
        """Whether a JSON file is a brick's, at first sight; any other file in the folder is no business of ours."""
        with (self.folder / f"{path}.json").open("rb") as stream:
            start = stream.read(1000)
        return re.fullmatch(r"\w+(/\w+)*", path, re.A) is not None and b'"format"' in start and b'"kind"' in start


@final
class LockFiles(Files):
    """A manifest alone, whose bricks are all elsewhere or in itself.

    Args:
        lock: The manifest's JSON.
        location: What it is called in errors.
        access: See `Files`.
    """

    def __init__(self, lock: bytes, location: str, access: Access) -> None:
        super().__init__(access)
        self._lock = lock
        self._where = location

    @property
    def location(self) -> str:
        return self._where

    def peek(self, name: str) -> bytes:
        if name == MANIFEST:
            return self._lock
        raise BrickNotFoundError(f"No file '{name}' in {self.location}: a lock has only references.")

    def file(self, name: str) -> Path:
        raise BrickNotFoundError(f"No file '{name}' in {self.location}: a lock has only references.")


def aligned_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped, but for small matrices, which are copied.

    A product with a single vector rounds otherwise where its matrix is not aligned in memory, and in a file few are.
    The copies let a stored head give the very outputs that it gave before; of large matrices they would cost time.

    Raises:
        BrickIntegrityError, BrickMismatchError: The file is cut short or has no weights that torch knows.
    """
    with well_formed(str(file)):
        tensors = read_weights(file)
    return {key: tensor.clone() if _is_small_matrix(tensor) else tensor for key, tensor in tensors.items()}


def _is_small_matrix(weight: Tensor) -> bool:
    """Whether it is of a linear layer or a 1x1 convolution, and small."""
    return weight.ndim > 1 and weight.nbytes <= _SMALL and weight.shape[2:].numel() == 1


def read_small(file: Path) -> bytes:
    """The content of a JSON file.

    Raises:
        UnsafeBrickError: It is too large for one.
    """
    if file.stat().st_size > MOST:
        raise UnsafeBrickError(f"{file} has {file.stat().st_size} bytes: too large for a brick's JSON.")
    return file.read_bytes()
