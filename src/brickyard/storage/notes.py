"""Small files that the package itself keeps below `HF_HOME`, to save work that was done before."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

from brickyard.storage.atomic import write_whole


def note_file(kind: str, name: str) -> Path:
    """Return the path of a note.

    Args:
        kind: The folder of such notes.
        name: The name of the file.
    """
    return Path(constants.HF_HOME) / "brickyard" / kind / name


def write_note(file: Path, text: str, most: int) -> None:
    """Write a note; without a writable home there is none.

    Args:
        file: The path, see `note_file`.
        text: The content.
        most: The number of notes of the kind beyond which the older half is removed.
    """
    with suppress(OSError):
        write_whole(file, text)
        notes = list(file.parent.iterdir())
        if len(notes) > most:
            notes.sort(key=lambda each: each.stat().st_mtime_ns)
            for old in notes[: len(notes) - most // 2]:
                old.unlink()
