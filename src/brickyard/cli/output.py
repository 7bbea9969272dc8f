"""What commands print: rows, tables and errors, never wrapped or truncated, so that hashes and URIs can be copied."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click
from rich.console import Console

_WIDEST = 10_000  # columns; a terminal breaks longer lines by itself, and copies them without the breaks


def echo_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two aligned columns, one row per line."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def make_console(stderr: bool = False) -> Console:
    """Return a console for tables and styled text, whose lines are as long as their content."""
    return Console(stderr=stderr, width=_WIDEST, soft_wrap=True)


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
