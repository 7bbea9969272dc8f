"""`brickyard find`: stored heads that fit a model."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import click

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.models import locate
from brickyard.cli.output import echo_table, format_metric

if TYPE_CHECKING:
    from brickyard.storage.fit import Check
    from brickyard.storage.search import FoundHead

_HEADER = ("head", "task", "classes", "metrics", "licence", "size", "downloads", "fits")
_MAX_NAMES = 40  # characters of class names that are shown


@click.command()
@click.argument("model")
@click.option("--task", default=None, help="Only heads of this task.")
@click.option(
    "--fits",
    default=None,
    type=click.Choice(["exact", "input", "shape"]),
    help="Only heads that fit by this check or a stricter one.  [default: all, with the reasons]",
)
@click.option("--licence", default=None, metavar="LICENCE,...", help="Only heads of these licences.")
@click.option("--org", default=None, help="Only heads of this organisation or user on the Hub.")
def find(model: str, task: str | None, fits: Check | None, licence: str | None, org: str | None) -> None:
    """Find heads for the model MODEL on the Hub, in the zoo and in the folders of BRICKYARD_ZOO, best first.

    MODEL is a name, a folder, a repo or a lock. No weights are downloaded. The commands below the table put a head into
    a model.

    \b
    brickyard find models/mine --task seg --licence apache-2.0,mit
    """  # noqa: D301 - click reads the \b
    source = locate(model)
    licences = None if licence is None else [name.strip() for name in licence.split(",")]
    heads = brickyard.find_heads(source, task=task, fits=fits, licences=licences, org=org)
    if not heads:
        click.echo("No heads found.")
        return
    echo_table(_HEADER, [_cells(head) for head in heads])
    fitting = [head for head in heads if head.fits is not None]
    if not fitting:
        return
    is_folder = source.startswith("local-dir:")
    folder = quote(model) if is_folder else "FOLDER"
    click.echo("To use one:" if is_folder else f"To use one, after `brickyard pull {quote(model)} FOLDER`:")
    for head in fitting:
        check = "" if head.fits == "exact" else f" --check {head.fits}"
        click.echo(f"brickyard swap {folder} {head.name} {quote(head.source)}{check}")


def _cells(head: FoundHead) -> tuple[str, ...]:
    names = ", ".join(head.info.labels)
    names = names if len(names) <= _MAX_NAMES else f"{names[:_MAX_NAMES]}..."
    return (
        head.source,
        str(head.info.task),
        f"{len(head.info.labels)}: {names}",
        ", ".join(f"{name} {format_metric(value)}" for name, value in list(head.metrics.items())[:2]),
        head.info.licence or "none stated",
        f"{head.size / 1e6:.2f} MB",
        "" if head.downloads is None else f"{head.downloads:,}",
        head.fits or f"no: {'; '.join(head.problems)}",
    )
