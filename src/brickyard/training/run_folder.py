"""The folder of a training run and its settings; removed when the run is replaced, or did not start."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from brickyard.errors import BrickIntegrityError, BrickMismatchError, BrickNotFoundError
from brickyard.storage.atomic import write_whole

CHECKPOINT = "last.ckpt"
SETTINGS = "config.yaml"
LOG = "log.jsonl"
VISUALIZATIONS = "visualizations"
LOGGERS = "loggers"  # what further loggers write
LAST, BEST = "last", "best"


def open_run(folder: Path, settings: Mapping[str, Any], *, resume: bool, may_differ: Collection[str]) -> None:
    """Start a run in a folder: write its settings; or check that the run in it has the same settings.

    Args:
        folder: The folder of the run.
        settings: JSON values by name.
        resume: Whether the folder holds the run.
        may_differ: Names of settings that may be others when the run is resumed.

    Raises:
        FileExistsError: The folder holds a run, and `resume` is False.
        BrickNotFoundError: The folder holds no run, and `resume` is True.
        BrickMismatchError: The run has other settings.
        BrickIntegrityError: The file with the settings is damaged.
    """
    file = folder / SETTINGS
    if not resume:
        if file.exists():
            raise FileExistsError(f"{folder} holds a training. Resume it, overwrite it, or choose another folder.")
        write_whole(file, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
        return
    if not file.exists():
        raise BrickNotFoundError(f"No training in {folder} to resume. Start it without resume first.")
    stored = read_settings(file)
    names = [name for name in {**stored, **settings} if name not in may_differ]
    problems = [
        f"{name}: expected {stored.get(name)!r}, found {settings.get(name)!r}"
        for name in names
        if stored.get(name) != settings.get(name)
    ]
    if problems:
        raise BrickMismatchError(f"The training in {folder} has other settings", problems)


def read_settings(file: Path) -> dict[str, Any]:
    """Read the settings of a run.

    Raises:
        BrickIntegrityError: The file is damaged.
    """
    try:
        return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise BrickIntegrityError(f"{file} is damaged: expected the settings of a training, in YAML.") from None


def remove_run(folder: Path) -> None:
    """Remove what a training wrote into a folder, and the folder if it is empty then."""
    for name in (LAST, BEST, VISUALIZATIONS, LOGGERS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (CHECKPOINT, LOG, SETTINGS):  # the settings last: without them it is no run
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def removed_if_not_started(folder: Path, *, overwrite: bool) -> Iterator[None]:
    """Remove a run that starts in this block if an error ends it before a row was logged or a state was saved.

    An interrupted run stays, and so does a run that was in the folder before, unless the block has replaced it.

    Args:
        folder: The folder of the run.
        overwrite: Whether the block replaces a run that is in the folder.
    """
    is_new = overwrite or not (folder / SETTINGS).exists()
    try:
        yield
    except Exception:
        log = folder / LOG
        has_rows = log.exists() and log.stat().st_size > 0
        if is_new and not has_rows and not (folder / CHECKPOINT).exists() and not (folder / LAST).exists():
            remove_run(folder)
        raise
