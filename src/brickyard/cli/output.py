"""What commands print: rows, tables and errors, never wrapped or truncated, so that hashes and URIs can be copied."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from math import isnan

import click
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDEST = 10_000  # columns; a terminal breaks longer lines by itself, and copies them without the breaks


def echo_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two aligned columns, one row per line."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def make_console(stderr: bool = False) -> Console:
    """Return a console for tables and styled text, whose lines are as long as their content."""
    return Console(stderr=stderr, width=_WIDEST, soft_wrap=True)


def echo_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table; brackets in its texts are no markup.

    Args:
        header: The names of the columns; without any, the table has neither a header nor lines.
        rows: The cells of each row.
        title: A line above the table.
    """
    if title is not None:
        click.echo(title)
    table = Table(box=HEAVY_HEAD if header else None, show_header=bool(header))
    for name in header:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*(Text(click.format_filename(cell)) for cell in row))
    make_console().print(table)


def error_text(error: BaseException, command: click.Command) -> str:
    """Return the message and the notes of an error, with the flags of a command in place of Python's arguments.

    `check='input'` becomes `--check input`, `overwrite=True` becomes `--overwrite`, `refer={'seg': 'hf://...'}` becomes
    `--refer seg=hf://...`, and an argument that the message starts with (`image_size: ...`) becomes the flag as well.
    """
    flags = {option.name: max(option.opts, key=len) for option in command.params if isinstance(option, click.Option)}

    def flag(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"] or ""
        if name not in flags:
            return match[0]
        value = re.sub(r"'([^']*)': '([^']*)'", r"\1=\2", value.strip("{}")).strip("'")
        return flags[name] if value in ("", "True") else f"{flags[name]} {value}"

    text = "\n".join([str(error).strip(), *getattr(error, "__notes__", [])])  # a collection notes the brick that raised
    text = re.sub(r"\b(?P<name>\w+)=(?P<value>'[^'\n]*'|\{[^{}\n]*\}|True\b|\d+)?", flag, text)
    return re.sub(r"\A(?P<name>\w+)(?P<value>)(?=:| of )", flag, text)


def replace_unprintable() -> None:
    """Let the output streams escape characters that their encoding lacks, such as "é" in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def format_metric(value: float) -> str:
    """Format a metric with four decimals; "-" where it is undefined (nan)."""
    return "-" if isnan(value) else f"{value:.4f}"
