"""Atomic changes of several files in a folder: all files change or none, also if the process is killed.

New files are written into `.brickyard/new-<random>`. Renaming that folder to `.brickyard/commit` commits the change:
`current` finds the files there until each is moved to its target. The next writer finishes the moves of a process that
was killed, and removes uncommitted files. Files are flushed to disk before the commit, and folders after each renaming,
so that a power failure leaves the old files or the new ones, too.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, final
from uuid import uuid4

from brickyard.errors import BrickError, BrickIntegrityError, UnsafeBrickError
from brickyard.storage.locks import exclusive_lock, temp_folder
from brickyard.storage.regular import read_regular

Read = TypeVar("Read")

PRIVATE = ".brickyard"
_COMMIT = "commit"
_REMOVED = ".removed"  # in the commit: the names of the files to remove
_LOCK = "lock"
_ATTEMPTS = 3  # to read files while they are being replaced, before writers have to wait
_PATIENCE = 60  # seconds of further attempts where no lock is possible


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
        PermissionError: A file cannot be written in its folder; nothing has changed.
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
                _flush_tree(staged)
                staged.rename(private / _COMMIT)
                _flush(private)
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


def current_names(folder: Path, suffix: str) -> list[str]:
    """List the files of a folder, and of the folders in it, as of the last committed change.

    Args:
        folder: The folder; it need not exist.
        suffix: How their names end.

    Returns:
        The names relative to the folder, with "/" as separator, sorted; without those that start with a dot.
    """
    commit = folder / PRIVATE / _COMMIT
    files = [(root, file) for root in (folder, commit) for file in root.rglob(f"*{suffix}") if file.is_file()]
    names = {file.relative_to(root) for root, file in files}
    visible = {name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)}
    return sorted(visible - removed(folder))


def read_whole(folder: Path, state: Callable[[], Any], read: Callable[[], Read]) -> Read:
    """Read several files of a folder as of one committed change, while other processes may be writing.

    They are read again if they changed in between; if they change again and again, while the writers wait.

    Args:
        folder: The folder.
        state: Returns a value that differs after each change.
        read: Reads the files; it may raise or return anything if they change.

    Raises:
        BrickIntegrityError: The files change all the time, and the folder cannot be written, so that no
            lock is possible.
    """
    end = time.monotonic() + _PATIENCE
    for attempt in itertools.count():
        before, is_unfinished = state(), (folder / PRIVATE / _COMMIT).exists()
        try:
            result = read()
        except (BrickError, OSError):
            if state() == before and (not is_unfinished or attempt >= _ATTEMPTS):
                raise
        else:
            if state() == before:
                return result
        if attempt >= _ATTEMPTS:
            with ExitStack() as stack:
                try:
                    stack.enter_context(_locked(folder / PRIVATE))
                except OSError:  # a read-only folder
                    if time.monotonic() > end:
                        raise BrickIntegrityError(f"{folder} changes while it is read. Load it again.") from None
                else:
                    return read()
        time.sleep(random.uniform(0, 0.01))
    raise AssertionError


def identity(file: Path) -> tuple[int, ...] | None:
    """Return values that differ when a file was replaced, None without a file; moving it does not change them."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def removed(folder: Path) -> set[str]:
    """Return the names of files that the last committed change removes but that may still exist."""
    return _removed_in(folder / PRIVATE / _COMMIT)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same file name, and move it to `path` when the block ends without an exception.

    The temporary file is in a folder of its own next to `path`, which is removed in any case; after a kill, by the next
    call for `path`. The file is flushed to disk before it is moved, and its folder afterwards: a kill or a power
    failure leaves the old file or the new one.

    Raises:
        OSError: The file could not be written; an existing file at `path` is unchanged.
    """
    with temp_folder(f".{path.name}-", path.parent) as folder:
        temp = folder / path.name
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
    _move_into(commit, folder)
    shutil.rmtree(commit, ignore_errors=True)


def _move_into(source: Path, folder: Path) -> None:
    """Move the content of a folder into another one; subfolders that do not exist there are moved as a whole."""
    for item in sorted(source.iterdir()):
        target = folder / item.name
        if item.is_dir() and target.is_dir():
            _move_into(item, target)
        elif item.name != _REMOVED:
            os.replace(item, target)
    _flush(folder)


def _flush_tree(folder: Path) -> None:
    """Flush a folder and all that is in it to disk."""
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def _removed_in(staged: Path) -> set[str]:
    file = staged / _REMOVED
    return set(read_regular(file).decode().split("\n")) if file.exists() else set()


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
        existing = next(path for path in (parent, *parent.parents) if path.exists())
        if not os.access(existing, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, "The folder cannot be written, so nothing was", str(existing))
