"""Open the files of a stored model: regular files only, without blocking."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

from brickyard.errors import UnsafeBrickError

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(file: Path) -> FileIO:
    """Open a file for unbuffered reading; links are followed.

    Raises:
        UnsafeBrickError: It is a folder, a pipe, a socket or a device, which may block for ever or have no end.
        FileNotFoundError: There is no such file.
    """
    _check_regular(file, file.stat().st_mode)  # opening a socket fails, and opening a device can have effects
    stream = FileIO(os.open(file, _FLAGS))
    try:
        _check_regular(file, os.fstat(stream.fileno()).st_mode)  # it may have been replaced
    except UnsafeBrickError:
        stream.close()
        raise
    return stream


def read_regular(file: Path) -> bytes:
    """Return the content of a file; errors as for `open_regular`."""
    with open_regular(file) as stream:
        return stream.readall()


def _check_regular(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise UnsafeBrickError(f"{file} is a {kinds.get(stat.S_IFMT(mode), 'device')}, expected a regular file.")
