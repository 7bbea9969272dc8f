"""Write tables as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path

Cell = str | int | float | None


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a table: floats with six digits; a cell that is None or nan, which is undefined, is empty."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_text(cell) for cell in row] for row in rows)


def _text(cell: Cell) -> str | int | None:
    if not isinstance(cell, float):
        return cell
    return None if isnan(cell) else f"{cell:.6g}"
