"""Exclusive locks between processes and threads, on top of `filelock`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock


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
