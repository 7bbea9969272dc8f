"""Print name-value rows without wrapping or truncating, so that hashes and URIs can be copied."""

from __future__ import annotations

from collections.abc import Sequence

import click


def echo_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two aligned columns, one row per line."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
