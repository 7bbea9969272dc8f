"""Many pictures, listed in a fixed order and cut into numbered shards.

folder/, photo.jpg                           picture files
table.parquet, folder/ of such files         a picture a row, in a column `image` (encoded bytes, or {bytes, path} as
                                             Hub data sets have it) or `path` (a file, from the table's folder)
hf://datasets/user/name[@revision][/folder]  a data set of the Hub in such files

Tables need the extra `scale`. A shard of a table is read from the start of its row group: groups of about a shard's
size are best.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from huggingface_hub import HfApi, HfFileSystem, parse_hf_uri
from huggingface_hub.constants import REPO_TYPES_URL_PREFIXES

from brickyard.data.images import find_images
from brickyard.errors import BrickInputError, MissingExtraError

_HUB = "hf://"
_ENDING = ".parquet"
_COLUMNS = ("image", "path")
_ROWS = 16  # of a table are in memory at a time


@final
class Picture(NamedTuple):
    """A picture that is still to be read.

    Attributes:
        name: What it is called.
        source: A file's path, or encoded bytes; None if there is nothing.
        problem: Why there is nothing.
    """

    name: str
    source: str | bytes | None
    problem: str = "nothing"


@dataclass(frozen=True)
class Shard(ABC):
    """Some of the pictures.

    Attributes:
        number: Its place among the shards.
        root: Where relative paths start: other processes may run elsewhere.
    """

    number: int
    root: str

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def pictures(self, start: int, stop: int) -> Iterator[Picture]:
        """Those from `start` to before `stop`."""


@final
@dataclass(frozen=True)
class FileShard(Shard):
    """Picture files.

    Attributes:
        files: Their paths, as they are called.
    """

    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def pictures(self, start: int, stop: int) -> Iterator[Picture]:
        return (Picture(file, os.path.join(self.root, file)) for file in self.files[start:stop])


@final
@dataclass(frozen=True)
class TableShard(Shard):
    """Rows of a parquet file.

    Attributes:
        table: Its path, as it is called; one of the Hub has its commit in it.
        column: Where the pictures are.
        first: Its first row here.
        rows: How many.
    """

    table: str
    column: str
    first: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def pictures(self, start: int, stop: int) -> Iterator[Picture]:
        wanted = range(self.first + start, self.first + stop)
        end = 0
        with _opened(os.path.join(self.root, self.table)) as file:
            for group in range(file.num_row_groups):
                first, end = end, end + file.metadata.row_group(group).num_rows
                if first < wanted.stop and end > wanted.start:
                    yield from self._readable(file, group, range(first, end), wanted)

    def _readable(self, file: Any, group: int, rows: range, wanted: range) -> Iterator[Picture]:
        """The pictures of a row group; where it is damaged, what is left of it is told instead."""
        left = [row for row in rows if row in wanted]
        try:
            for picture in self._of_group(file, group, rows.start, wanted):
                left.pop(0)
                yield picture
        except (load_pyarrow().ArrowException, OSError) as error:
            yield from (Picture(f"{self.table}#{row}", None, f"a damaged table: {error}") for row in left)

    def _of_group(self, file: Any, group: int, row: int, wanted: range) -> Iterator[Picture]:
        for piece in file.iter_batches(_ROWS, row_groups=[group], columns=[self.column]):
            for cell in piece.column(0):
                if row in wanted:
                    yield self._picture(row, cell.as_py())
                row += 1
            if row >= wanted.stop:
                return

    def _picture(self, row: int, cell: Any) -> Picture:
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if not isinstance(cell, str):
            return Picture(f"{self.table}#{row}", cell)
        place = os.path.join(self.root, os.path.dirname(self.table), cell)
        if not place.startswith(_HUB):
            return Picture(cell, place)
        try:
            return Picture(cell, HfFileSystem().cat_file(place))
        except FileNotFoundError:
            return Picture(cell, None)


@final
@dataclass(frozen=True)
class Shards:
    """All the pictures.

    Attributes:
        shards: In their order, numbered from 0.
        sha256: Of the paths, sizes and times of all files: what tells other pictures from these.
    """

    shards: tuple[Shard, ...]
    sha256: str

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)


def list_shards(sources: Iterable[str], size: int) -> Shards:
    """Find pictures and cut them into shards; nothing of them is read but the footers of tables.

    Args:
        sources: See above. What a folder has is sorted by path; a folder with a table is searched for tables only.
            Tables come after picture files.
        size: Pictures a shard; the last one of the files, and of each table, may have fewer.

    Raises:
        BrickInputError: A place that is not there or has no pictures, or a table without a column of them.
        MissingExtraError: A table, without the extra `scale`.
        huggingface_hub's own errors for a data set of the Hub.
    """
    tables_at = {place: _tables(place) for place in sources}
    files = [str(file) for file in find_images(place for place, tables in tables_at.items() if not tables)]
    shards: list[Shard] = []
    seen = hashlib.sha256()
    for path in files:
        seen.update(_identity(path))
    for at in range(0, len(files), size):
        shards.append(FileShard(len(shards), os.getcwd(), tuple(files[at : at + size])))
    for path in dict.fromkeys(table for tables in tables_at.values() for table in tables):
        seen.update(_identity(path))
        root = "" if path.startswith(_HUB) else os.getcwd()
        with _opened(path) as table:
            rows, column = table.metadata.num_rows, _column(path, table.schema_arrow.names)
        for first in range(0, rows, size):
            shards.append(TableShard(len(shards), root, path, column, first, min(size, rows - first)))
    if not shards:
        found = "tables without rows" if tables_at else "no place to look"
        raise BrickInputError(", ".join(tables_at) or "a job", "pictures", found)
    return Shards(tuple(shards), seen.hexdigest())


def load_pyarrow() -> Any:
    """pyarrow, with its module `parquet`.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("Reading and writing parquet files", "scale") from None
    return pyarrow


def _tables(place: str) -> list[str]:
    """The parquet files at a place, sorted; none if it holds pictures."""
    if place.startswith(_HUB):
        return _tables_of_hub(place)
    if os.path.isdir(place):
        return sorted(str(file) for file in Path(place).rglob(f"*{_ENDING}") if file.is_file())
    return [place] if place.endswith(_ENDING) and os.path.isfile(place) else []


def _tables_of_hub(place: str) -> list[str]:
    """Pinned to the commit that the revision is now."""
    uri = parse_hf_uri(place)
    if uri.type not in ("dataset", "model"):
        raise BrickInputError(place, "a data set, hf://datasets/user/name", f"the type {uri.type}")
    commit = HfApi().repo_info(uri.id, revision=uri.revision, repo_type=uri.type).sha
    prefix = REPO_TYPES_URL_PREFIXES.get(uri.type, "")
    names = HfFileSystem().find(f"{_HUB}{prefix}{uri.id}@{commit}/{uri.path_in_repo}".rstrip("/"))
    tables = [f"{_HUB}{name}" for name in names if name.endswith(_ENDING)]
    if not tables:
        raise BrickInputError(place, f"files that end with {_ENDING}", "none")
    return tables


def _opened(path: str) -> Any:
    """A parquet file, for a `with` statement; it is read piece by piece."""
    pyarrow = load_pyarrow()
    source = HfFileSystem().open(path) if path.startswith(_HUB) else path
    try:
        return pyarrow.parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise BrickInputError(path, "a parquet file", f"{error}") from None


def _column(path: str, names: list[str]) -> str:
    for name in _COLUMNS:
        if name in names:
            return name
    hint = "Rename one: image has encoded bytes, path has files."
    raise BrickInputError(path, "a column 'image' or 'path'", f"{names}", hint)


def _identity(path: str) -> bytes:
    """What a file is, without its content; of one of the Hub, the path has the commit."""
    facts = None if path.startswith(_HUB) else os.stat(path)
    numbers = "" if facts is None else f"{facts.st_size} {facts.st_mtime_ns}"
    return f"{path}\0{numbers}\n".encode(errors="surrogateescape")
