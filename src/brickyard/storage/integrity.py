"""Check the sha256 of files, once per file.

A file that was checked is recorded with its inode, size and times, as git's index does, so that loading it again only
compares those.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from brickyard.errors import BrickIntegrityError
from brickyard.storage.notes import note_file, write_note
from brickyard.storage.regular import open_regular

_TICK = 100_000_000  # nanoseconds within which a file can change without a change of its times
_MAX_NOTES = 1000  # the oldest are removed beyond it, with those of files that no longer exist among them


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file in hex."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_file(file: Path, sha256: str, size: int, *, afresh: bool = False) -> None:
    """Check the size and the hash of a file.

    Args:
        file: The file; links are followed.
        sha256: The expected hash in hex.
        size: The expected size in bytes.
        afresh: Hash the file even if it was checked before.

    Raises:
        BrickIntegrityError: The file has another size or hash.
        UnsafeBrickError: It is not a regular file.
    """
    with open_regular(file) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size != size:
            raise BrickIntegrityError(f"{file} has {status.st_size} bytes, expected {size}. Download it again.")
        if not afresh and is_verified(status, sha256):
            return
        if (actual := hashlib.file_digest(stream, "sha256").hexdigest()) != sha256:
            raise BrickIntegrityError(f"{file} has the sha256 {actual}, expected {sha256}. Download it again.")
        note_verified(status, sha256)


def is_verified(status: os.stat_result, sha256: str) -> bool:
    """Return whether a file was found to have this hash, and has not changed since.

    Args:
        status: The status of the open file; its content is the verified one if the status is the same after reading.
        sha256: The hash in hex.
    """
    with suppress(OSError, ValueError):
        return _note(status).read_text(encoding="utf-8") == _seen(status, sha256)
    return False


def note_verified(status: os.stat_result, sha256: str) -> None:
    """Record that a file has this hash.

    Args:
        status: Its status before it was hashed.
        sha256: The hash in hex.
    """
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) <= _TICK:
        return
    write_note(_note(status), _seen(status, sha256), _MAX_NOTES)


def _note(status: os.stat_result) -> Path:
    return note_file("verified", f"{status.st_dev}-{status.st_ino}")


def _seen(status: os.stat_result, sha256: str) -> str:
    return f"{sha256} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
