"""Check the sha256 of files, once per file.

A file that was checked is recorded with its inode, size and times, as git's index does, so that loading it again only
compares those.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

from brickyard.errors import BrickIntegrityError
from brickyard.storage.atomic import write_whole

_TICK = 100_000_000  # nanoseconds within which a file can change without a change of its times


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file in hex."""
    with file.open("rb") as stream:
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
    """
    status = file.stat()
    if status.st_size != size:
        raise BrickIntegrityError(f"{file} has {status.st_size} bytes, expected {size}. Download it again.")
    note = Path(constants.HF_HOME) / "brickyard" / "verified" / f"{status.st_dev}-{status.st_ino}"
    seen = f"{sha256} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    with suppress(OSError):
        if not afresh and note.read_text(encoding="utf-8") == seen:
            return
    if (actual := sha256_of(file)) != sha256:
        raise BrickIntegrityError(f"{file} has the sha256 {actual}, expected {sha256}. Download it again.")
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _TICK:
        with suppress(OSError):  # without a writable home, the file is hashed each time
            write_whole(note, seen)
