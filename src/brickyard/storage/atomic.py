"""Files of a folder that change together: all of them, or none, also when the process is killed half-way.

New files are written to a folder of their own inside, `.brickyard/new-<random>`. Renaming that to `.brickyard/commit`
is the moment at which they count: `current` finds them there until each is moved to its place. What a killed process
left to be moved, the next writer moves; what it left unfinished, the next writer removes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

from brickyard.errors import BrickError, UnsafeBrickError

PRIVATE = ".brickyard"
_COMMIT = "commit"
_REMOVED = ".removed"  # in the commit: the names of files that go
_ABANDONED = 3600  # seconds after which unfinished files are nobody's, where no lock tells


@final
class Staging:
    """Files to be, and names of files to go.

    Attributes:
        folder: Where the new files are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._removed: list[str] = []

    def remove(self, name: str) -> None:
        """Let the file `name`, relative to the folder, go with the change; it need not be there."""
        self._removed.append(name)
        (self.folder / _REMOVED).write_text("\n".join(self._removed), encoding="utf-8")


@contextmanager
def replaced_together(folder: Path) -> Iterator[Staging]:
    """Change files of `folder` together; it is made if it is not there. A second writer waits for the first.

    Raises:
        UnsafeBrickError: A folder on the way to a file is a link out of `folder`, or is a file; nothing has changed.
    """
    private = folder / PRIVATE
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _alone_in(private) as is_alone:
            _finish(folder)
            _tidy(private, is_alone)
            staged = private / f"new-{uuid4().hex}"
            staged.mkdir()
            try:
                yield Staging(staged)
                _check_targets(staged, folder)
                staged.rename(private / _COMMIT)
                _finish(folder)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
                with suppress(OSError):
                    private.rmdir()  # only where it is empty, as below
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def current(folder: Path, name: str) -> Path:
    """The file `name` of a folder as the last finished change left it; it need not exist."""
    commit = folder / PRIVATE / _COMMIT
    if commit.exists() and ((commit / name).exists() or name in _removed_in(commit)):
        return commit / name
    return folder / name


def removed(folder: Path) -> set[str]:
    """The names of files that are still there, but went with the last change."""
    return _removed_in(folder / PRIVATE / _COMMIT)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same file name, and move it to `path` when the block ends without an exception.

    The temporary file is in a folder of its own next to `path`, which is removed in any case.

    Raises:
        OSError: The file could not be written; an existing file at `path` is unchanged.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temp = Path(folder) / path.name
        try:
            yield temp
            os.replace(temp, path)
        except BrickError:  # some are OSErrors with a message of their own
            raise
        except OSError as error:
            raise OSError(f"{path} was not written: {error}") from error


def write_whole(file: Path, text: str) -> None:
    """Write a text file atomically; its folder is created if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as temp:
        temp.write_text(text, encoding="utf-8")


@contextmanager
def _alone_in(private: Path) -> Iterator[bool]:
    """Hold the lock of a folder's writers, until the process ends at the latest; tell whether there is such a lock."""
    lock = _lock(private)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _lock(private: Path) -> int | None:
    while True:
        private.mkdir(parents=True, exist_ok=True)
        if private.resolve() != private.parent.resolve() / PRIVATE:
            raise UnsafeBrickError(f"{private} is a link: nothing was written.")
        if sys.platform == "win32":
            return None
        with suppress(FileNotFoundError):  # the writer before us has removed it
            lock = os.open(private, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, private):
                return lock
            os.close(lock)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _finish(folder: Path) -> None:
    """Move what counts already to its place."""
    commit = folder / PRIVATE / _COMMIT
    if not commit.exists():
        return
    _check_targets(commit, folder)
    for name in removed(folder):
        (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            (folder / name).parent.rmdir()  # only where it is empty
    for file in _files(commit):
        target = folder / file.relative_to(commit)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    shutil.rmtree(commit, ignore_errors=True)


def _removed_in(staged: Path) -> set[str]:
    file = staged / _REMOVED
    return set(file.read_text(encoding="utf-8").split("\n")) if file.exists() else set()


def _files(staged: Path) -> list[Path]:
    return sorted(file for file in staged.rglob("*") if file.is_file() and file.name != _REMOVED)


def _check_targets(staged: Path, folder: Path) -> None:
    """Raise where a file would be written, or removed, outside `folder`, or cannot be written."""
    root = folder.resolve()
    names = [*(str(file.relative_to(staged)) for file in _files(staged)), *_removed_in(staged)]
    for target in (folder / name for name in names):
        around = target.parent.resolve()
        is_blocked = target.is_dir() or any(
            place.exists() and not place.is_dir() for place in (around, *around.parents)
        )
        if is_blocked or not around.is_relative_to(root) or staged.is_symlink():
            raise UnsafeBrickError(f"{target} leads out of {folder}, or stands in its own way: nothing was written.")


def _tidy(private: Path, is_alone: bool) -> None:
    """Remove what writers that were killed left unfinished."""
    for folder in private.glob("new-*"):
        if is_alone or time.time() - folder.stat().st_mtime > _ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)
