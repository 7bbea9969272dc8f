"""Files of a folder that change together: all of them, or none, also when the process is killed half-way.

New files are written to a folder of their own beside the old ones, `.brickyard/<random>`. Renaming that to
`.brickyard/commit` is the moment at which they count: `current` finds them there until each is moved to its place. What
a killed process left to be moved, the next writer moves.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final
from uuid import uuid4

from brickyard.errors import UnsafeBrickError

PRIVATE = ".brickyard"
_COMMIT = "commit"
_REMOVED = ".removed"  # in the commit: the names of files that go
_ABANDONED = 3600  # seconds after which unfinished files are nobody's


@final
class Staging:
    """Files to be, and names of files to go.

    Attributes:
        folder: Where the new files are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._removed: list[str] = []

    def remove(self, name: str) -> None:
        """Let the file `name`, relative to the folder, go with the change; it need not be there."""
        self._removed.append(name)
        (self.folder / _REMOVED).write_text("\n".join(self._removed), encoding="utf-8")


@contextmanager
def replaced_together(folder: Path) -> Iterator[Staging]:
    """Change files of `folder` together; it is made if it is not there.

    Raises:
        UnsafeBrickError: A folder on the way to a file is a link out of `folder`; nothing has changed.
    """
    private = folder / PRIVATE
    folder.parent.mkdir(parents=True, exist_ok=True)
    is_new = not folder.exists()
    if not is_new:
        _finish(folder)
    home = folder.parent if is_new else private
    home.mkdir(exist_ok=True)
    staged = home / f"{f'.{folder.name}' if is_new else 'new'}-{uuid4().hex}"
    staged.mkdir()
    try:
        staging = Staging(staged)
        yield staging
        if is_new:
            (staged / _REMOVED).unlink(missing_ok=True)
            staged.rename(folder)
        else:
            _refuse_links(staged, folder)
            _commit(staged, folder)
            _finish(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if not is_new:
            _tidy(private)


def current(folder: Path, name: str) -> Path:
    """The file `name` of a folder as the last finished change left it; it need not exist."""
    pending = folder / PRIVATE / _COMMIT / name
    return pending if pending.exists() else folder / name


def removed(folder: Path) -> set[str]:
    """The names of files that are still there, but went with the last change."""
    return _removed_in(folder / PRIVATE / _COMMIT)


def _commit(staged: Path, folder: Path) -> None:
    """The moment at which the new files count."""
    while True:
        try:
            staged.rename(folder / PRIVATE / _COMMIT)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        _finish(folder)  # somebody else's change came first


def _finish(folder: Path) -> None:
    """Move what counts already to its place; another process may be doing the same."""
    commit = folder / PRIVATE / _COMMIT
    if not commit.exists():
        return
    _refuse_links(commit, folder)
    for name in removed(folder):
        (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            (folder / name).parent.rmdir()  # only where it is empty
    for file in _files(commit):
        target = folder / file.relative_to(commit)
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.replace(file, target)
    shutil.rmtree(commit, ignore_errors=True)


def _removed_in(staged: Path) -> set[str]:
    file = staged / _REMOVED
    return set(file.read_text(encoding="utf-8").split("\n")) if file.exists() else set()


def _files(staged: Path) -> list[Path]:
    return sorted(file for file in staged.rglob("*") if file.is_file() and file.name != _REMOVED)


def _refuse_links(staged: Path, folder: Path) -> None:
    """Raise where a file would be written, or removed, outside `folder`."""
    root = folder.resolve()
    for name in [*(str(file.relative_to(staged)) for file in _files(staged)), *_removed_in(staged)]:
        target = folder / name
        if target.is_dir() or not target.parent.resolve().is_relative_to(root):
            raise UnsafeBrickError(f"{target} leads out of {folder}, or is a folder itself: nothing was written.")


def _tidy(private: Path) -> None:
    """Remove what processes that were killed left unfinished, and the folder where nothing else is in it."""
    for folder in private.glob("new-*"):
        if time.time() - folder.stat().st_mtime > _ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        private.rmdir()
