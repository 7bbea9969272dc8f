"""`brickyard predict`: a few images with visualizations, or many images as a job."""

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

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.output import make_console

if TYPE_CHECKING:
    from brickyard.inference.predictor import Prediction

DEFAULT_MODEL = "tf_efficientnet_lite0_cls.in1k"
_CONFIDENCES = ("probability", "score", "share")  # keys of results with values in [0, 1]
_JOB_OPTIONS = ("rows", "shard_size", "workers", "actors", "address")


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="A model name, local-dir:FOLDER, hf://USER/REPO, a lock file or an exported .onnx file.",
)
@click.option("--out", default="predictions", show_default=True, type=click.Path(path_type=Path), help="Output folder.")
@click.option(
    "--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Number of images per batch."
)
@click.option("--device", default=None, help="Device: cpu, cuda, ...  [default: a GPU if there is one]")
@click.option(
    "--engine",
    default=None,
    type=click.Choice(["local", "ray"]),
    help="Run as a job, see above: on this machine, or on a Ray cluster.",
)
@click.option(
    "--rows",
    default="parquet",
    show_default=True,
    type=click.Choice(["parquet", "jsonl"]),
    help="File format of a job.",
)
@click.option(
    "--shard-size",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of images per file of a job.",
)
@click.option(
    "--workers",
    default=None,
    type=click.IntRange(min=0),
    help="Number of data loading processes, per actor of Ray.  [default: one per two CPU cores; ray: 0]",
)
@click.option(
    "--actors",
    default=None,
    type=click.IntRange(min=1),
    help="Number of models that run in parallel.  [default: one per GPU, or else per CPU core]",
)
@click.option(
    "--address", default=None, help="Address of a Ray cluster, or auto.  [default: start Ray on this machine]"
)
@click.pass_context
def predict(
    context: click.Context,
    images: tuple[str, ...],
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
    """Run a model on IMAGES: files, or folders of them.

    Prints the results, saves a visualization of each image, and writes all results to predictions.json. An image that
    cannot be read is reported, and the others follow; the exit code is then 1.

    \b
    Many images, as a job:
        brickyard predict photos/ --engine local --out rows
        brickyard predict hf://datasets/user/name --engine ray --address auto --out rows

    With --engine only rows are written, in part-000000.parquet and so on, one row per image: file, width, height,
    error, and the results of each head. IMAGES may then also be parquet files, folders of them, or a data set on the
    Hub, with a column image or path. Run the same command again to resume an interrupted job. An image that cannot be
    read is a row with its error, and the exit code is 0.
    """  # noqa: D301 - click reads the \b
    if engine is None:
        for name in _JOB_OPTIONS:
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.replace('_', '-')} is for jobs: add --engine local or --engine ray.")
        if tables := [source for source in images if source.startswith("hf://") or source.endswith(".parquet")]:
            raise click.UsageError(f"{tables[0]} is for jobs: add --engine local or --engine ray.")
        _predict_files(images, model, out, batch_size, device)
        return
    if engine == "local" and address is not None:
        raise click.UsageError("--address is for --engine ray.")
    result = brickyard.predict_rows(
        model,
        images,
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
    skipped = f" ({result.skipped} done before)" if result.skipped else ""
    counts = f"{result.images} images{skipped}, {result.unreadable} of them unreadable"
    click.echo(f"{counts}; rows in {click.format_filename(out)}")


def _predict_files(images: tuple[str, ...], model: str, out: Path, batch_size: int, device: str | None) -> None:
    """Print the results of a few images, and write them with visualizations into a folder."""
    predictor = brickyard.Predictor(model, device=device, batch_size=batch_size)
    console = make_console()
    files = predictor.find(images)
    out.mkdir(parents=True, exist_ok=True)
    taken = {file.name.lower() for file in files if file.parent.resolve() == out.resolve()}
    rows = []
    failed = 0
    for prediction in predictor.predict(files, draw=True, progress=True):
        rows.append(prediction.to_json())
        if prediction.error is not None:
            failed += 1
            line = f"[red]not read:[/red] {_escape_text(prediction.error)}"
            make_console(stderr=True).print(line, highlight=False)
            continue
        _print(console, prediction)
        if prediction.visualization is not None:
            prediction.visualization.save(out / _free_name(prediction.file.stem, taken))
    text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    # file names may not be valid UTF-8
    (out / "predictions.json").write_text(text, encoding="utf-8", errors="backslashreplace")
    console.print(f"{len(rows) - failed} of {len(rows)} images; results in {_escape_text(out)}", highlight=False)
    sys.exit(1 if failed else 0)


def _print(console: Console, prediction: Prediction) -> None:
    width, height = prediction.size
    console.print(f"\n[bold]{_escape_text(prediction.file)}[/bold]  {width}x{height}", highlight=False)
    for head, results in prediction.results.items():
        if len(prediction.results) > 1:
            console.print(f" {head}" if results else f" {head}: no results", highlight=False)
        table = Table(show_header=False, box=None)
        for result in results:
            table.add_row(*map(escape, _columns(result)))
        if results:
            console.print(table, highlight=False)


def _columns(result: Mapping[str, Any]) -> tuple[str, str]:
    """Format a result in two columns: its confidence in percent, if it has one, and its label and other values."""
    confidence = next((result[name] for name in _CONFIDENCES if name in result), None)
    if confidence is not None:
        box = ", ".join(f"{value:.0f}" for value in result.get("box", ()))
        return f"{confidence:7.2%}", f"{result['label']}  at {box}" if box else result["label"]
    numbers = [f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float)]
    lists = [f"{len(value)} numbers" for value in result.values() if isinstance(value, list)]
    return "", "  ".join([result["label"], *numbers, *lists])


def _escape_text(text: str | Path) -> str:
    """Escape rich markup, and the undecodable bytes of file names."""
    return escape(click.format_filename(str(text)))


def _free_name(stem: str, taken: set[str]) -> str:
    """Choose a name for a visualization that differs from all names in `taken` ignoring case, and add it to them."""
    name, number = f"{stem}.png", 2
    while name.lower() in taken:
        name, number = f"{stem}_{number}.png", number + 1
    taken.add(name.lower())
    return name
