"""Atomic changes of several files in a folder: all files change or none, also if the process is killed.

New files are written into `.brickyard/new-<random>`. Renaming that folder to `.brickyard/commit` commits the change:
`current` finds the files there until each is moved to its target. The next writer finishes the moves of a process that
was killed, and removes uncommitted files.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import final
from uuid import uuid4

from brickyard.errors import BrickError, UnsafeBrickError
from brickyard.storage.locks import exclusive_lock

PRIVATE = ".brickyard"
_COMMIT = "commit"
_REMOVED = ".removed"  # in the commit: the names of the files to remove
_LOCK = "lock"


@final
class Staging:
    """A change that is being prepared.

    Attributes:
        folder: The folder to write the new files into.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._removed: list[str] = []

    def remove(self, name: str) -> None:
        """Remove the file `name`, relative to the folder, with the change; it need not exist."""
        self._removed.append(name)
        (self.folder / _REMOVED).write_text("\n".join(self._removed), encoding="utf-8")


@contextmanager
def replaced_together(folder: Path) -> Iterator[Staging]:
    """Change files of a folder together; a second writer waits for the first.

    Args:
        folder: The folder, which is created if needed.

    Raises:
        UnsafeBrickError: A parent of a file is a link out of `folder`, or is a file; nothing has changed.
    """
    private = folder / PRIVATE
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(private):
            _finish(folder)
            for abandoned in private.glob("new-*"):  # by a writer that was killed
                shutil.rmtree(abandoned, ignore_errors=True)
            staged = private / f"new-{uuid4().hex}"
            staged.mkdir()
            try:
                yield Staging(staged)
                _check_targets(staged, folder)
                staged.rename(private / _COMMIT)
                _finish(folder)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    finally:
        if is_new:
            _remove_if_empty(folder)


def current(folder: Path, name: str) -> Path:
    """Return the file `name` of a folder as of the last committed change; it need not exist."""
    commit = folder / PRIVATE / _COMMIT
    if commit.exists() and ((commit / name).exists() or name in _removed_in(commit)):
        return commit / name
    return folder / name


def removed(folder: Path) -> set[str]:
    """Return the names of files that the last committed change removes but that still exist."""
    return _removed_in(folder / PRIVATE / _COMMIT)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same file name, and move it to `path` when the block ends without an exception.

    The temporary file is in a folder of its own next to `path`, which is removed in any case. The file is flushed to
    disk before it is moved, and its folder afterwards: a kill or a power failure leaves the old file or the new one.

    Raises:
        OSError: The file could not be written; an existing file at `path` is unchanged.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temp = Path(folder) / path.name
        try:
            yield temp
            _flush(temp)
            os.replace(temp, path)
            _flush(path.parent)
        except BrickError:  # some are OSErrors with a message of their own
            raise
        except OSError as error:
            raise OSError(f"{path} was not written: {error}") from error


def write_whole(file: Path, text: str) -> None:
    """Write a text file atomically; its folder is created if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as temp:
        temp.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    if path.is_dir() and sys.platform == "win32":  # which cannot open folders
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(private: Path) -> Iterator[None]:
    """Hold the lock of a folder's writers; `private` exists within the block, and is removed afterwards if empty."""
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, private)  # runs after the release of the lock, whose file is in the folder
        while True:
            private.mkdir(parents=True, exist_ok=True)
            if private.resolve() != private.parent.resolve() / PRIVATE:
                raise UnsafeBrickError(f"{private} is a link, expected a folder: nothing was written.")
            with suppress(FileNotFoundError):  # the previous writer has removed the folder
                stack.enter_context(exclusive_lock(private / _LOCK))
                break
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _finish(folder: Path) -> None:
    """Move the files of a committed change to their targets."""
    commit = folder / PRIVATE / _COMMIT
    if not commit.exists():
        return
    _check_targets(commit, folder)
    for name in removed(folder):
        (folder / name).unlink(missing_ok=True)
        _remove_if_empty((folder / name).parent)
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
    """Raise if a file would be written or removed outside of `folder`, or cannot be written."""
    root = folder.resolve()
    names = [*(str(file.relative_to(staged)) for file in _files(staged)), *_removed_in(staged)]
    for target in (folder / name for name in names):
        parent = target.parent.resolve()
        is_blocked = target.is_dir() or any(path.exists() and not path.is_dir() for path in (parent, *parent.parents))
        if is_blocked or not parent.is_relative_to(root) or staged.is_symlink():
            raise UnsafeBrickError(
                f"{target} is outside of {folder}, or blocked by a file or folder: nothing was written."
            )
