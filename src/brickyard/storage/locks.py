"""Exclusive locks between processes and threads, on top of `filelock`, and temporary folders under such locks."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

_LOCK = ".lock"  # appended to the name of a temporary folder


@contextmanager
def exclusive_lock(file: Path, *, timeout: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock for the duration of the block.

    The operating system releases the lock when the process ends, also when it is killed; processes forked while it is
    held do not keep it.

    Args:
        file: The lock file. It is created in an existing folder and removed on release.
        timeout: Seconds to wait while another process or thread holds the lock; None waits without limit, 0 does not
            wait.

    Raises:
        TimeoutError: The lock is still held by another process or thread.
        OSError: The lock file cannot be created, e.g. in a read-only folder.
    """
    with FileLock(file, timeout=-1 if timeout is None else timeout, is_singleton=False):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows does not remove an open file; elsewhere waiters retry with a new one
                file.unlink()


@contextmanager
def temp_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder, which is removed after the block.

    Folders of the same prefix that processes left behind when they were killed are removed as well.

    Args:
        prefix: The start of the folder's name.
        parent: The folder that contains it, by default that of the system for temporary files.
    """
    root = Path(tempfile.gettempdir()) if parent is None else parent
    remove_abandoned(prefix, root)
    folder = root / f"{prefix}{uuid4().hex}"
    with exclusive_lock(_lock_of(folder)):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(prefix: str, parent: Path) -> None:
    """Remove the folders of `temp_folder`, and their locks, that processes left behind when they were killed.

    Args:
        prefix: The start of their names.
        parent: The folder that contains them.
    """
    for lock in parent.glob(f"{glob.escape(prefix)}*{_LOCK}"):
        with suppress(OSError), exclusive_lock(lock, timeout=0):  # TimeoutError: it is in use
            shutil.rmtree(lock.with_name(lock.name.removesuffix(_LOCK)), ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)
