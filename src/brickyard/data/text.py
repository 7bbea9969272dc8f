"""Read text files of data sets: lists of images, labels and class names."""

from __future__ import annotations

from pathlib import Path

from brickyard.data.reading import damage_as_input_error
from brickyard.errors import BrickInputError


def read_text(file: Path, expected: str, hint: str = "") -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        file: The file.
        expected: What the file is, for the error.
        hint: How to fix it, for the error.

    Raises:
        BrickInputError: The file does not exist, is no regular file, or is not text in UTF-8.
        OSError: The machine failed, see `damage_as_input_error`.
    """
    with damage_as_input_error(str(file), expected, hint):
        if file.exists() and not file.is_file():
            raise BrickInputError(str(file), expected, "no regular file", hint)  # reading a pipe could block forever
        return file.read_text(encoding="utf-8-sig")


def read_lines(file: Path, expected: str, hint: str = "") -> list[str]:
    """Read the lines of a text file that are not empty, without the spaces around them; see `read_text`."""
    return [line.strip() for line in read_text(file, expected, hint).split("\n") if line.strip()]
