"""The files of a stored model: an interface, and its implementations for folders and locks."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from brickyard.errors import BrickError, BrickMismatchError, BrickNotFoundError, UnsafeBrickError
from brickyard.storage.atomic import PRIVATE, Read, current, identity, read_whole, removed
from brickyard.storage.integrity import check_file
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.regular import open_regular
from brickyard.storage.tensor_file import SUFFIX, open_tensors
from brickyard.storage.weights import refuse_pickle

MAX_JSON_SIZE = 8_000_000  # bytes of a JSON file
Check = Callable[[Mapping[str, Tensor]], None]


@final
@dataclass(frozen=True)
class Access:
    """How the Hub is accessed.

    Attributes:
        token: A token of the Hub, as for huggingface_hub.
        local_files_only: Look only into the cache of huggingface_hub.
        cache_dir: The folder of that cache, None for the default, which `HF_HOME` and `HF_HUB_CACHE` change.
        force_download: Download files again that are in the cache.
    """

    token: str | bool | None = None
    local_files_only: bool = False
    cache_dir: str | os.PathLike[str] | None = None
    force_download: bool = False


DEFAULT_ACCESS = Access()  # with the token that is stored by huggingface_hub


class Files(ABC):
    """The files of a stored model by name, such as `seg/head.json`.

    Args:
        access: How the Hub is accessed, also for references to it.
    """

    def __init__(self, access: Access) -> None:
        self.access = access

    @property
    @abstractmethod
    def location(self) -> str:
        """The folder or repo, for messages."""

    @abstractmethod
    def peek(self, name: str) -> bytes:
        """Return the content of a JSON file.

        Raises:
            BrickNotFoundError: There is no such file.
            UnsafeBrickError: It is too large.
        """

    @abstractmethod
    def file(self, name: str, size: int | None = None) -> Path:
        """Return the path of a file on disk, after a download if needed.

        Args:
            name: The name of the file.
            size: Its size in bytes, if known: a file of another size is not downloaded.

        Raises:
            BrickNotFoundError: There is no such file.
            BrickIntegrityError: It has another size.
        """

    def fetch(self, sizes: Mapping[str, int | None]) -> None:  # noqa: B027 - a folder has all files
        """Download several files, also for later use without network.

        Args:
            sizes: The size in bytes of each file by name, None if unknown; see `file`.
        """

    def whole(self, read: Callable[[], Read]) -> Read:
        """Call a function that reads several of the files, and return its result for one state of them."""
        return read()

    def uri(self, path: str) -> str | None:
        """Return where the brick at `path` is published, None for a local folder."""
        return None

    def check_name(self, collection: str | None) -> None:  # noqa: B027 - any other folder may have any name
        """Check the model's name in the manifest, None if it has none.

        Raises:
            BrickMismatchError: A folder of the zoo has the name of another model.
        """

    def unlisted(self, known: Sequence[str]) -> list[str]:
        """Return the paths of bricks that are not among `known`, such as bricks copied into the folder."""
        return []

    def with_hashes(self, path: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a brick's JSON with the hash of its weights, which files of other libraries do not state."""
        return config

    def discard(self, name: str) -> None:  # noqa: B027 - a user's folder is left alone
        """Remove a damaged file from the cache."""

    @contextmanager
    def discarding(self, name: str) -> Iterator[None]:
        """Remove a file from the cache if the block finds it damaged, so that it is downloaded again."""
        try:
            yield
        except BrickError:
            self.discard(name)
            raise

    def tensors(self, path: str, weights: Mapping[str, Any], check: Check) -> dict[str, Tensor]:
        """Return the weights of the brick at `path`, in memory of their own.

        Args:
            path: The path of the brick.
            weights: Their `sha256` and `size`, as the JSON states them.
            check: Called with the tensors of the file on the meta device, before any is read.

        Raises:
            BrickNotFoundError: There is no such file.
            UnsafeBrickError: The weights are pickled, or not a regular file.
            BrickIntegrityError: The file has another size or hash, or is not a safetensors file.
        """
        name = f"{path}{SUFFIX}"
        file = self.file(name)
        with ExitStack() as stack:
            with self.discarding(name):
                opened = stack.enter_context(open_tensors(file, weights["size"]))
            try:
                check(opened.header)
            except BrickMismatchError:
                self.checked(name, weights["sha256"], weights["size"])  # it may be damaged
                raise
            with self.discarding(name):
                return opened.read(weights["sha256"])

    def checked(self, name: str, sha256: str, size: int, *, afresh: bool = False) -> Path:
        """Return the path of a file with this content; see `check_file`."""
        file = self.file(name, size)
        with self.discarding(name):
            check_file(file, sha256, size, afresh=afresh)
        return file


@final
class FolderFiles(Files):
    """The files of a folder.

    Args:
        folder: The folder.
        access: See `Files`.
        model: The name of the zoo model in the folder, None for any other folder.
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

    def file(self, name: str, size: int | None = None) -> Path:
        file = current(self.folder, name)
        if not file.exists():
            if name.endswith(SUFFIX):
                refuse_pickle(file.with_suffix(""))
            hint = f" A model's folder has {MANIFEST} and a JSON for each brick." if name == MANIFEST else ""
            raise BrickNotFoundError(f"No file {self.folder / name}.{hint}")
        return file

    def whole(self, read: Callable[[], Read]) -> Read:
        return read_whole(self.folder, lambda: identity(current(self.folder, MANIFEST)), read)

    def uri(self, path: str) -> str | None:
        return f"zoo://{self._model}/{path}" if self._model else None

    def check_name(self, collection: str | None) -> None:
        if self._model and collection is not None and collection.partition(".")[0] != self._model.partition(".")[0]:
            location = f"{self.location}/{MANIFEST}"
            problem = f"it states the name '{collection}'"
            raise BrickMismatchError(f"{location} is not of the model '{self._model}'", [problem])

    def unlisted(self, known: Sequence[str]) -> list[str]:
        if self._model:
            return []
        gone = removed(self.folder)
        paths = [file.relative_to(self.folder).with_suffix("").as_posix() for file in self._jsons()]
        return [path for path in paths if path not in known and f"{path}.json" not in gone and self._is_brick(path)]

    def _jsons(self) -> Iterator[Path]:
        """Yield the JSON files that may be bricks, without those of other models in subfolders."""
        for at, folders, names in os.walk(self.folder):
            inside = Path(at)
            folders[:] = sorted(name for name in folders if name != PRIVATE and not (inside / name / MANIFEST).exists())
            files = (inside / name for name in sorted(names) if name.endswith(".json") and name != MANIFEST)
            yield from (file for file in files if file.is_file())  # reading a pipe would block

    def _is_brick(self, path: str) -> bool:
        """Return whether a JSON file looks like that of a brick; other files in the folder are ignored."""
        with (self.folder / f"{path}.json").open("rb") as stream:
            start = stream.read(1000)
        return re.fullmatch(r"\w+(/\w+)*", path, re.A) is not None and b'"format"' in start and b'"kind"' in start


@final
class LockFiles(Files):
    """A manifest alone, whose bricks are references or included.

    Args:
        lock: The JSON of the manifest.
        location: The name of the lock, for messages.
        access: See `Files`.
    """

    def __init__(self, lock: bytes, location: str, access: Access) -> None:
        super().__init__(access)
        self._lock = lock
        self._location = location

    @property
    def location(self) -> str:
        return self._location

    def peek(self, name: str) -> bytes:
        if name == MANIFEST:
            return self._lock
        raise BrickNotFoundError(f"No file '{name}' in {self.location}: a lock contains only references.")

    def file(self, name: str, size: int | None = None) -> Path:
        raise BrickNotFoundError(f"No file '{name}' in {self.location}: a lock contains only references.")


def read_small(file: Path) -> bytes:
    """Return the content of a JSON file.

    Raises:
        UnsafeBrickError: It is too large, or not a regular file.
    """
    with open_regular(file) as stream:
        content = stream.read(MAX_JSON_SIZE + 1)
    if len(content) > MAX_JSON_SIZE:
        raise UnsafeBrickError(
            f"{file} has {file.stat().st_size} bytes, expected at most {MAX_JSON_SIZE} for a JSON file."
        )
    return content
