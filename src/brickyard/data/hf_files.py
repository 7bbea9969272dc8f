"""Find and read the tables of a data set in the form of Hugging Face `datasets`, in a folder or on the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RevisionNotFoundError

from brickyard.data.dataset import split_names
from brickyard.data.parquet import load_pyarrow
from brickyard.data.tables import Row, column_of, find_table, read_table
from brickyard.errors import BrickInputError

_CONVERTED = "refs/convert/parquet"  # the revision to which the Hub converts data sets
_FILE_COLUMNS = ("file_name", "image_file_name", "file")
_IMAGE = "image"
_ENDING = ".parquet"
LAYOUT = (
    "<split>/metadata.jsonl, .csv or .parquet with the column file_name, or parquet files as data/<split>-*.parquet "
    "with encoded images in the column image; the columns label, text and objects (bbox and category) are labels"
)


@final
@dataclass(frozen=True)
class HfTable:
    """The rows of a split.

    Attributes:
        images: Encoded images, or the paths of their files.
        rows: The other columns of each row.
        features: The description of the columns by `datasets`, {} if there is none.
    """

    images: Sequence[bytes | Path]
    rows: Sequence[Row]
    features: Mapping[str, Any]


def open_tables(source: Path, split: str) -> HfTable:
    """Read the tables of a split.

    Args:
        source: A folder, or `user/name` or `user/name/configuration` on the Hub.
        split: "train", "val" or "test"; "val" matches "valid" and "validation".

    Raises:
        BrickInputError: There is no such split, it has several configurations, or a table is damaged.
        MissingExtraError: Parquet files need the extra `scale`.
        huggingface_hub's own errors for a data set on the Hub.
    """
    if not source.is_dir():
        return _read_parquet(_download(source, split))
    folders = [source / name for name in split_names(split)]
    if table := find_table([folder / "metadata" for folder in folders]):
        return _read_metadata(read_table(table), table)
    for folder in folders:
        if (file := folder / f"metadata{_ENDING}").is_file():
            rows, _ = _rows_of_parquet(file)
            return _read_metadata(rows, file)
    names = [file.relative_to(source).as_posix() for file in sorted(source.rglob(f"*{_ENDING}"))]
    return _read_parquet([source / name for name in _of_split(names, split, str(source))])


def _of_split(names: Sequence[str], split: str, location: str) -> list[str]:
    """Select the parquet files of a split by their names."""
    for name in split_names(split):
        pattern = re.compile(rf"(?:(?P<folder>.*)/)?{re.escape(name)}(?:/[^/]*|[-.][^/]*)?\{_ENDING}")
        matches = [match for match in map(pattern.fullmatch, names) if match]
        if folders := sorted({match["folder"] or "" for match in matches}):
            if len(folders) > 1:
                hint = "Name one, as in hf:user/name/configuration."
                raise BrickInputError(location, "one configuration", ", ".join(folders), hint)
            return [match[0] for match in matches]
    raise BrickInputError(location, f"the split '{split}'", "none", f"Layout: {LAYOUT}.")


def _download(source: Path, split: str) -> list[Path]:
    """Download the parquet files of a split from the Hub, those of the data set or those that the Hub converted."""
    parts = source.parts
    if len(parts) not in (2, 3) or source.is_absolute():
        expected = "a folder, or user/name or user/name/configuration on the Hub"
        raise BrickInputError(f"hf:{source}", expected, "neither")
    repo, location = "/".join(parts[:2]), f"hf:{source}"
    for revision in (None, _CONVERTED):
        try:
            info = HfApi().dataset_info(repo, revision=revision)
        except RevisionNotFoundError:
            continue
        names = [file.rfilename for file in info.siblings or () if file.rfilename.endswith(_ENDING)]
        if len(parts) == 3:
            names = [name for name in names if name.startswith(f"{parts[2]}/")]
        if names:
            chosen = _of_split(names, split, location)
            folder = snapshot_download(repo, repo_type="dataset", revision=info.sha, allow_patterns=chosen)
            return [Path(folder, name) for name in chosen]
    raise BrickInputError(location, f"files that end with {_ENDING}", "none")


def _read_metadata(rows: Sequence[Row], file: Path) -> HfTable:
    column = column_of(rows, _FILE_COLUMNS, file)
    images = []
    for row in rows:
        if not isinstance(name := row.values.get(column), str) or not name:
            raise BrickInputError(row.location, "the file of an image", repr(name)[:100])
        images.append(file.parent / name)
    return HfTable(images, rows, {})


def _read_parquet(files: Sequence[Path]) -> HfTable:
    images: list[bytes | Path] = []
    rows: list[Row] = []
    features: Mapping[str, Any] = {}
    for file in files:
        read, features = _rows_of_parquet(file)
        column_of(read, (_IMAGE,), file)
        for row in read:
            cell = row.values[_IMAGE]
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            if not isinstance(data, bytes):
                raise BrickInputError(row.location, "an encoded image in the column image", type(cell).__name__)
            images.append(data)
            rows.append(Row({name: value for name, value in row.values.items() if name != _IMAGE}, row.location))
    return HfTable(images, rows, features)


def _rows_of_parquet(file: Path) -> tuple[list[Row], Mapping[str, Any]]:
    """Return the rows of a parquet file, and the description of its columns by `datasets`."""
    pyarrow = load_pyarrow()
    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise BrickInputError(str(file), "a parquet file", f"{error}") from None
    stored = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(stored).get("info", {}).get("features", {})
    except (ValueError, AttributeError) as error:
        raise BrickInputError(str(file), "a description of the columns in JSON", f"{error}") from None
    return [Row(values, f"{file}, row {number}") for number, values in enumerate(table.to_pylist())], features
