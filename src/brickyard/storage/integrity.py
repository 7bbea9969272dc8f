"""That a file is what its writer wrote: its sha256, taken once for each file and remembered.

A file that was found right is noted with its inode, size and times, as git's index does, so that loading it again costs
a look at those. A change to the file changes them.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

from brickyard.errors import BrickIntegrityError
from brickyard.storage.atomic import write_whole

_TICK = 100_000_000  # nanoseconds in which a file could change again without a change of its times


def sha256_of(file: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_file(file: Path, sha256: str, size: int, *, afresh: bool = False) -> None:
    """Refuse a file of another content.

    Args:
        file: A link is followed.
        sha256: In hex.
        size: In bytes.
        afresh: Read it, also where it was found right before.

    Raises:
        BrickIntegrityError: It is another file.
    """
    found = file.stat()
    if found.st_size != size:
        raise BrickIntegrityError(f"{file} has {found.st_size} bytes, expected {size}. Fetch it again.")
    note = Path(constants.HF_HOME) / "brickyard" / "verified" / f"{found.st_dev}-{found.st_ino}"
    seen = f"{sha256} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    with suppress(OSError):
        if not afresh and note.read_text(encoding="utf-8") == seen:
            return
    if (actual := sha256_of(file)) != sha256:
        raise BrickIntegrityError(f"{file} has the sha256 {actual}, expected {sha256}. Fetch it again.")
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _TICK:
        with suppress(OSError):  # a home that cannot be written to costs time, no safety
            write_whole(note, seen)
