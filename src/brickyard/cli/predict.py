"""`brickyard predict`: a few pictures to look at, or many as a job."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import brickyard  # its names load torch when they are used, so that --help is quick

if TYPE_CHECKING:
    from brickyard.inference.predictor import Prediction

DEFAULT_MODEL = "tf_efficientnet_lite0_cls.in1k"
_SHARES = ("probability", "score", "share")  # of results, all of them in [0, 1]
_OF_JOBS = ("rows", "shard_size", "workers", "actors", "address")


@click.command()
@click.argument("pictures", nargs=-1, required=True)
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="A model's name, local-dir:FOLDER, hf://USER/REPO, a lock or an exported .onnx file.",
)
@click.option(
    "--out", default="predictions", show_default=True, type=click.Path(path_type=Path), help="Folder for results."
)
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Pictures at a time.")
@click.option("--device", default=None, help="cpu, cuda, ...  [default: a GPU if there is one]")
@click.option(
    "--engine",
    default=None,
    type=click.Choice(["local", "ray"]),
    help="Run as a job, see above: on this machine, or by actors of Ray.",
)
@click.option(
    "--rows", default="parquet", show_default=True, type=click.Choice(["parquet", "jsonl"]), help="A job's files."
)
@click.option(
    "--shard-size", default=1000, show_default=True, type=click.IntRange(min=1), help="Pictures a file of a job."
)
@click.option(
    "--workers",
    default=None,
    type=click.IntRange(min=0),
    help="Processes that read pictures, for each actor of ray.  [default: one for two CPU cores; ray: 0]",
)
@click.option(
    "--actors",
    default=None,
    type=click.IntRange(min=1),
    help="Models at work at once.  [default: one a GPU, or else a CPU core]",
)
@click.option("--address", default=None, help="Of a Ray cluster, or auto.  [default: Ray starts on this machine]")
@click.pass_context
def predict(
    context: click.Context,
    pictures: tuple[str, ...],
    model: str,
    out: Path,
    batch_size: int,
    device: str | None,
    engine: Literal["local", "ray"] | None,
    rows: Literal["parquet", "jsonl"],
    shard_size: int,
    workers: int | None,
    actors: int | None,
    address: str | None,
) -> None:
    """Say what is on PICTURES: files, or folders of them.

    Prints the most likely classes, writes an annotated picture for each file, and predictions.json with all of it. A
    picture that cannot be read is reported and does not stop the others; the exit code is then 1.

    \b
    Many pictures, as a job:
        brickyard predict photos/ --engine local --out rows
        brickyard predict hf://datasets/user/name --engine ray --address auto --out rows

    With --engine there is nothing but rows, in part-000000.parquet and so on, a row a picture: file, width, height,
    error, and what each head found. PICTURES may then also be parquet files, folders of them, or a data set of the Hub,
    with a column image or path. The same command goes on with a job that was stopped. A picture that cannot be read is
    a row with its error, and the exit code is 0.
    """  # noqa: D301 - click reads the \b
    if engine is None:
        for name in _OF_JOBS:
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.replace('_', '-')} is for jobs: add --engine local or --engine ray.")
        if tables := [place for place in pictures if place.startswith("hf://") or place.endswith(".parquet")]:
            raise click.UsageError(f"{tables[0]} is for jobs: add --engine local or --engine ray.")
        _look(pictures, model, out, batch_size, device)
        return
    if engine == "local" and address is not None:
        raise click.UsageError("--address is for --engine ray.")
    done = brickyard.predict_rows(
        model,
        pictures,
        out,
        engine=engine,
        kind=rows,
        shard_size=shard_size,
        batch_size=batch_size,
        device=device,
        workers=workers,
        actors=actors,
        address=address,
        progress=True,
    )
    earlier = f" ({done.before} before)" if done.before else ""
    click.echo(
        f"{done.pictures} pictures{earlier}, {done.unread} of them not read; rows in {click.format_filename(out)}"
    )


def _look(pictures: tuple[str, ...], model: str, out: Path, batch_size: int, device: str | None) -> None:
    """Print, draw and write what is on a few pictures."""
    predictor = brickyard.Predictor(model, device=device, batch_size=batch_size)
    console = Console(soft_wrap=True)
    files = predictor.find(pictures)
    out.mkdir(parents=True, exist_ok=True)
    taken = {file.name.lower() for file in files if file.parent.resolve() == out.resolve()}
    rows = []
    failed = 0
    for prediction in predictor.predict(files, draw=True, progress=True):
        rows.append(prediction.to_json())
        if prediction.error is not None:
            failed += 1
            told = f"[red]not read:[/red] {_shown(prediction.error)}"
            Console(stderr=True, soft_wrap=True).print(told, highlight=False)
            continue
        _print(console, prediction)
        if prediction.drawn is not None:
            prediction.drawn.save(out / _free_name(prediction.file.stem, taken))
    text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    (out / "predictions.json").write_text(text, encoding="utf-8", errors="backslashreplace")  # names may be no UTF-8
    console.print(f"{len(rows) - failed} of {len(rows)} pictures; results in {_shown(out)}", highlight=False)
    sys.exit(1 if failed else 0)


def _print(console: Console, prediction: Prediction) -> None:
    width, height = prediction.size
    console.print(f"\n[bold]{_shown(prediction.file)}[/bold]  {width}x{height}", highlight=False)
    for head, results in prediction.results.items():
        if len(prediction.results) > 1:
            console.print(f" {head}" if results else f" {head}: nothing", highlight=False)
        table = Table(show_header=False, box=None)
        for result in results:
            table.add_row(*map(escape, _told(result)))
        if results:
            console.print(table, highlight=False)


def _told(result: Mapping[str, Any]) -> tuple[str, str]:
    """A result in two columns: how sure or how large it is, if it says so, and what else can be told in a line."""
    share = next((result[name] for name in _SHARES if name in result), None)
    if share is not None:
        box = ", ".join(f"{value:.0f}" for value in result.get("box", ()))
        return f"{share:7.2%}", f"{result['label']}  at {box}" if box else result["label"]
    numbers = [f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float)]
    many = [f"{len(value)} numbers" for value in result.values() if isinstance(value, list)]
    return "", "  ".join([result["label"], *numbers, *many])


def _shown(text: str | Path) -> str:
    """As it is, but for names of files that are no text."""
    return escape(click.format_filename(str(text)))


def _free_name(stem: str, taken: set[str]) -> str:
    """A file name that no other picture of this run has."""
    name, number = f"{stem}.png", 2
    while name.lower() in taken:
        name, number = f"{stem}_{number}.png", number + 1
    taken.add(name.lower())
    return name
