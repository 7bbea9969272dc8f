"""Read tables of labels: CSV files and lines of JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from brickyard.data.text import read_text
from brickyard.errors import BrickInputError

TABLE_SUFFIXES = (".csv", ".jsonl")


@final
class Row(NamedTuple):
    """A row of a table.

    Attributes:
        values: Its values by column; those of a CSV file are texts.
        location: The file and line, for errors.
    """

    values: Mapping[str, Any]
    location: str


def read_table(file: Path) -> list[Row]:
    """Read a CSV file whose first line names the columns, or a file with an object of JSON in each line.

    Raises:
        BrickInputError: The file does not exist, is no text, or a line is damaged.
    """
    text = read_text(file, "a table in CSV or lines of JSON")
    return [*(_csv_rows(text, file) if file.suffix == ".csv" else _json_rows(text, file))]


def find_table(candidates: Sequence[Path]) -> Path | None:
    """Return the first table that exists, of paths without suffix; None if there is none.

    Raises:
        BrickInputError: A table exists in both formats.
    """
    for candidate in candidates:
        files = [candidate.with_name(candidate.name + suffix) for suffix in TABLE_SUFFIXES]
        existing = [file for file in files if file.is_file()]
        if len(existing) > 1:
            raise BrickInputError(str(candidate.parent), "one table", " and ".join(file.name for file in existing))
        if existing:
            return existing[0]
    return None


def column_of(rows: Sequence[Row], names: Sequence[str], file: Path) -> str:
    """Return the column that a table has, of several names for it.

    Raises:
        BrickInputError: It has none of them, or the table has no rows.
    """
    if not rows:
        raise BrickInputError(str(file), "one row or more", "none")
    columns = dict.fromkeys(column for row in rows for column in row.values)
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise BrickInputError(str(file), f"a column {' or '.join(names)}", f"{list(columns)}")
    return found


def _csv_rows(text: str, file: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        for values in reader:
            location = f"{file}, line {reader.line_num}"
            if None in values or None in values.values():
                expected = f"{len(reader.fieldnames or ())} values, as the first line has"
                raise BrickInputError(location, expected, "another number", "Texts with a comma need quotes.")
            yield Row(values, location)
    except csv.Error as error:
        raise BrickInputError(f"{file}, line {reader.line_num}", "a row in CSV", f"{error}") from None


def _json_rows(text: str, file: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        location = f"{file}, line {number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise BrickInputError(location, "an object of JSON", f"{error}") from None
        if not isinstance(values, dict):
            raise BrickInputError(location, "an object of JSON", f"{line[:100]}")
        yield Row(values, location)
