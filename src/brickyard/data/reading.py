"""Tell damaged files from faults of the machine."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from brickyard.errors import BrickInputError

# Of the errors of a system call, those that are due to the file; Pillow's own errors have no number.
_ERRNO_OF_FILE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


@contextmanager
def damage_as_input_error(name: str, expected: str, hint: str) -> Iterator[None]:
    """Raise one kind of error for every damage of a file, within the block; faults of the machine pass unchanged.

    Args:
        name: The file, or another name of what is read.
        expected: What it should be.
        hint: How to fix it.

    Raises:
        BrickInputError: The file is absent or damaged.
        OSError, MemoryError: The machine failed, e.g. with too many open files: the file may be sound.
    """
    try:
        yield
    except (BrickInputError, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        if isinstance(error, OSError) and error.errno not in _ERRNO_OF_FILE:
            raise
        raise BrickInputError(name, expected, f"{type(error).__name__}: {error}", hint) from None
