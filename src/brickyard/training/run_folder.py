"""The folder of a training run: removed when the run is replaced, or did not start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKPOINT = "last.ckpt"
SETTINGS = "train.json"
LOG = "log.jsonl"
VISUALIZATIONS = "visualizations"
LAST, BEST = "last", "best"


def remove_run(folder: Path) -> None:
    """Remove what a training wrote into a folder, and the folder if it is empty then."""
    for name in (LAST, BEST, VISUALIZATIONS):
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
