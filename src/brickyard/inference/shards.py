"""Sources of many images, listed in a fixed order and split into numbered shards.

folder/, photo.jpg, photos/**/*.jpg          image files
table.parquet, folder/ of such files         one image per row, in a column `image` (encoded bytes, or {bytes, path} as
                                             in Hub data sets) or `path` (a file, relative to the folder of the table)
hf://datasets/user/name[@revision][/folder]  a data set on the Hub of such files

Tables need the extra `scale`. A shard of a table is read from the start of its row group, so row groups of about the
size of a shard are fastest.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from huggingface_hub import HfApi, HfFileSystem, parse_hf_uri
from huggingface_hub.constants import REPO_TYPES_URL_PREFIXES

from brickyard.data.parquet import load_pyarrow
from brickyard.errors import BrickInputError
from brickyard.inference.sources import ImageSource, find_files

_HUB = "hf://"
_ENDING = ".parquet"
_COLUMNS = ("image", "path")
_ROWS_IN_MEMORY = 16


@dataclass(frozen=True)
class Shard(ABC):
    """A part of the images of a job.

    Attributes:
        number: The index of the shard, from 0.
        root: The folder that relative paths start from, since worker processes may run in another one.
    """

    number: int
    root: str

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def images(self, start: int, stop: int) -> Iterator[ImageSource]:
        """Yield the sources from index `start` to before `stop`."""


@final
@dataclass(frozen=True)
class FileShard(Shard):
    """Image files.

    Attributes:
        files: Their paths, as the user named them.
    """

    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def images(self, start: int, stop: int) -> Iterator[ImageSource]:
        return (ImageSource(file, os.path.join(self.root, file)) for file in self.files[start:stop])


@final
@dataclass(frozen=True)
class TableShard(Shard):
    """Rows of a parquet file.

    Attributes:
        table: The path of the file, as the user named it; on the Hub, with its commit.
        column: The column with the images.
        first: The first row of the shard.
        rows: The number of rows.
    """

    table: str
    column: str
    first: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def images(self, start: int, stop: int) -> Iterator[ImageSource]:
        wanted = range(self.first + start, self.first + stop)
        end = 0
        with _open_table(os.path.join(self.root, self.table)) as file:
            for group in range(file.num_row_groups):
                first, end = end, end + file.metadata.row_group(group).num_rows
                if first < wanted.stop and end > wanted.start:
                    yield from self._sources(file, group, range(first, end), wanted)

    def _sources(self, file: Any, group: int, rows: range, wanted: range) -> Iterator[ImageSource]:
        """Yield the sources of a row group; after damage, sources without data for its remaining rows."""
        remaining = [row for row in rows if row in wanted]
        try:
            for source in self._in_row_group(file, group, rows.start, wanted):
                remaining.pop(0)
                yield source
        except (load_pyarrow().ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:  # the machine failed: the table may be sound
                raise
            yield from (ImageSource(f"{self.table}#{row}", None, f"a damaged table: {error}") for row in remaining)

    def _in_row_group(self, file: Any, group: int, row: int, wanted: range) -> Iterator[ImageSource]:
        for batch in file.iter_batches(_ROWS_IN_MEMORY, row_groups=[group], columns=[self.column]):
            for cell in batch.column(0):
                if row in wanted:
                    yield self._source(row, cell.as_py())
                row += 1
            if row >= wanted.stop:
                return

    def _source(self, row: int, cell: Any) -> ImageSource:
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if not isinstance(cell, str):
            return ImageSource(f"{self.table}#{row}", cell)
        path = os.path.join(self.root, os.path.dirname(self.table), cell)
        if not path.startswith(_HUB):
            return ImageSource(cell, path)
        try:
            return ImageSource(cell, HfFileSystem().cat_file(path))
        except FileNotFoundError:
            return ImageSource(cell, None)


@final
@dataclass(frozen=True)
class Shards:
    """All images of a job.

    Attributes:
        shards: The shards, numbered from 0.
        sha256: Hash of the paths, sizes and modification times of all files; it changes if the images do.
    """

    shards: tuple[Shard, ...]
    sha256: str

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)


def list_shards(sources: Iterable[str], size: int) -> Shards:
    """List images and split them into shards. Only the footers of tables are read.

    Args:
        sources: Files, folders or data sets, see the module. The files of a folder are sorted by path; of a folder with
            tables, only the tables are listed. Tables come after image files.
        size: Number of images per shard; the last shard of the files, and of each table, may have fewer.

    Raises:
        BrickInputError: A source does not exist or has no images, or a table has no image column.
        MissingExtraError: A table without the extra `scale`.
        huggingface_hub's exceptions for a data set on the Hub.
    """
    tables_of = {source: _list_tables(source) for source in sources}
    files = [str(file) for file in find_files(source for source, tables in tables_of.items() if not tables)]
    shards: list[Shard] = []
    fingerprint = hashlib.sha256()
    for path in files:
        fingerprint.update(_identity(path))
    for start in range(0, len(files), size):
        shards.append(FileShard(len(shards), os.getcwd(), tuple(files[start : start + size])))
    for path in dict.fromkeys(table for tables in tables_of.values() for table in tables):
        fingerprint.update(_identity(path))
        root = "" if path.startswith(_HUB) else os.getcwd()
        with _open_table(path) as table:
            rows, column = table.metadata.num_rows, _column(path, table.schema_arrow.names)
        for first in range(0, rows, size):
            shards.append(TableShard(len(shards), root, path, column, first, min(size, rows - first)))
    if not shards:
        found = "tables without rows" if tables_of else "no sources"
        raise BrickInputError(", ".join(tables_of) or "a job", "images", found)
    return Shards(tuple(shards), fingerprint.hexdigest())


def _list_tables(source: str) -> list[str]:
    """List the parquet files of a source, sorted; none for image files."""
    if source.startswith(_HUB):
        return _list_hub_tables(source)
    if os.path.isdir(source):
        return sorted(str(file) for file in Path(source).rglob(f"*{_ENDING}") if file.is_file())
    return [source] if source.endswith(_ENDING) and os.path.isfile(source) else []


def _list_hub_tables(source: str) -> list[str]:
    """List the parquet files of a data set, pinned to the current commit of the revision."""
    uri = parse_hf_uri(source)
    if uri.type not in ("dataset", "model"):
        raise BrickInputError(source, "a data set, hf://datasets/user/name", f"the type {uri.type}")
    commit = HfApi().repo_info(uri.id, revision=uri.revision, repo_type=uri.type).sha
    prefix = REPO_TYPES_URL_PREFIXES.get(uri.type, "")
    names = HfFileSystem().find(f"{_HUB}{prefix}{uri.id}@{commit}/{uri.path_in_repo}".rstrip("/"))
    tables = [f"{_HUB}{name}" for name in names if name.endswith(_ENDING)]
    if not tables:
        raise BrickInputError(source, f"files that end with {_ENDING}", "none")
    return tables


def _open_table(path: str) -> Any:
    """Open a parquet file for streaming, as a context manager."""
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
    hint = "Rename a column: image for encoded bytes, path for files."
    raise BrickInputError(path, "a column 'image' or 'path'", f"{names}", hint)


def _identity(path: str) -> bytes:
    """Describe a file by its path, size and modification time; on the Hub, by its path, which has the commit."""
    stat = None if path.startswith(_HUB) else os.stat(path)
    size_and_time = "" if stat is None else f"{stat.st_size} {stat.st_mtime_ns}"
    return f"{path}\0{size_and_time}\n".encode(errors="surrogateescape")
