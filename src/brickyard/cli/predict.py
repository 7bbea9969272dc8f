"""`brickyard predict`: a few images with visualizations, or many images as a job."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.output import echo_table

if TYPE_CHECKING:
    from brickyard.inference.prediction import Prediction

DEFAULT_MODEL = "tf_efficientnet_lite0_cls.in1k"
_CONFIDENCES = ("probability", "score", "share")  # keys of results with values in [0, 1]
_JOB_OPTIONS = ("rows", "shard_size", "workers", "actors", "address")


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="A model name, local-dir:FOLDER, hf://USER/REPO, a lock file, or an exported .onnx file or folder of them.",
)
@click.option(
    "--head", "heads", multiple=True, metavar="NAME", help="Head of such a folder to run; repeatable.  [default: all]"
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
@click.option(
    "--threshold",
    default=None,
    type=click.FloatRange(0, 1),
    help="Lowest score or probability of a result.  [default: that of the model]",
)
@click.option(
    "--topk",
    default=None,
    type=click.IntRange(min=1),
    help="Largest number of results per head.  [default: that of the model]",
)
@click.option("--classes", default=None, metavar="NAME,...", help="Names of the classes to report.  [default: all]")
@click.option(
    "--image-size",
    default=None,
    type=click.IntRange(min=1),
    help="Image side in pixels that the model sees.  [default: that of the model]",
)
@click.option("--no-images", is_flag=True, help="Write predictions.json only, neither visualizations nor masks.")
@click.pass_context
def predict(
    context: click.Context,
    images: tuple[str, ...],
    model: str,
    heads: tuple[str, ...],
    out: Path,
    batch_size: int,
    device: str | None,
    engine: Literal["local", "ray"] | None,
    rows: Literal["parquet", "jsonl"],
    shard_size: int,
    workers: int | None,
    actors: int | None,
    address: str | None,
    threshold: float | None,
    topk: int | None,
    classes: str | None,
    image_size: int | None,
    no_images: bool,
) -> None:
    """Run a model on IMAGES: files, folders of them, patterns such as `photos/**/*.jpg`, or URLs.

    Prints the results, saves a visualization of each image, and writes all results to predictions.json. Masks are PNG
    images of the size of the image, whose grey values are the classes, and run lengths as in COCO in the JSON. An image
    that cannot be read is reported, and the others follow; the exit code is then 1.

    \b
    Many images, as a job:
        brickyard predict photos/ --engine local --out rows
        brickyard predict hf://datasets/user/name --engine ray --address auto --out rows

    With --engine only rows are written, in part-000000.parquet and so on, one row per image: file, width, height,
    error, and the results of each head. IMAGES may then also be parquet files, folders of them, or a data set on the
    Hub, with a column image or path. Run the same command again to resume an interrupted job. An image that cannot be
    read is a row with its error, and the exit code is 0.
    """  # noqa: D301 - click reads the \b
    settings: dict[str, Any] = {
        "threshold": threshold,
        "topk": topk,
        "classes": None if classes is None else [name.strip() for name in classes.split(",")],
        "image_size": image_size,
        "heads": list(heads) or None,
    }
    if engine is None:
        for name in _JOB_OPTIONS:
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.replace('_', '-')} is for jobs: add --engine local or --engine ray.")
        if tables := [source for source in images if source.startswith("hf://") or source.endswith(".parquet")]:
            raise click.UsageError(f"{tables[0]} is for jobs: add --engine local or --engine ray.")
        _predict_files(images, model, out, batch_size, device, settings, save_images=not no_images)
        return
    if no_images:
        raise click.UsageError("--no-images is not for jobs, which write no images.")
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
        **settings,
    )
    skipped = f" ({result.skipped} done before)" if result.skipped else ""
    counts = f"{result.images} images{skipped}, {result.unreadable} of them unreadable"
    click.echo(f"{counts}; rows in {click.format_filename(out)}")


def _predict_files(
    images: tuple[str, ...],
    model: str,
    out: Path,
    batch_size: int,
    device: str | None,
    settings: Mapping[str, Any],
    save_images: bool,
) -> None:
    """Print the results of a few images, and write them with visualizations into a folder."""
    predictor = brickyard.Predictor(model, device=device, batch_size=batch_size, **settings)
    sources = _outside(out, images, predictor.find)
    predictions = predictor.predict(sources, draw=save_images, progress=True)
    out.mkdir(parents=True, exist_ok=True)
    taken = {os.path.basename(source).lower() for source in sources if Path(source).parent.resolve() == out.resolve()}
    rows = []
    failed = 0
    for prediction in predictions:
        row = prediction.to_json()
        rows.append(row)
        if prediction.error is not None:
            failed += 1
            click.echo(f"{click.style('not read:', fg='red')} {click.format_filename(prediction.error)}", err=True)
            continue
        _print(prediction)
        if save_images:
            row["images"] = _save_images(prediction, out, taken)
    text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    # file names may not be valid UTF-8
    (out / "predictions.json").write_text(text, encoding="utf-8", errors="backslashreplace")
    click.echo(f"{len(rows) - failed} of {len(rows)} images; results in {click.format_filename(out)}")
    sys.exit(1 if failed else 0)


def _outside(out: Path, images: Sequence[str], find: Callable[[str], list[Path]]) -> list[str]:
    """Expand folders without the output folder, whose images are those of an earlier run."""
    sources = []
    for image in images:
        folder = Path(image).expanduser()
        if not folder.is_dir():
            sources.append(image)
            continue
        if out.resolve() == folder.resolve():
            raise click.BadParameter(
                f"expected a folder other than that of the images, found {out}", param_hint="--out"
            )
        files = find(image)
        outside = [str(file) for file in files if not file.resolve().is_relative_to(out.resolve())]
        if not outside:
            raise click.UsageError(f"{image} has no images except those in the output folder {out}.")
        sources += outside
    return sources


def _save_images(prediction: Prediction, out: Path, taken: set[str]) -> dict[str, str]:
    """Write the visualization and the masks of a prediction, and return the names of their files."""
    from brickyard.inference.masks import to_mask_image  # noqa: PLC0415 - it loads numpy and the COCO tools

    stem = Path(urlsplit(prediction.name).path if prediction.file is None else prediction.name).stem
    files = {}
    if prediction.visualization is not None:
        files["visualization"] = _free_name(stem, taken)
        prediction.visualization.save(out / files["visualization"])
    for head, mask in prediction.masks.items():
        files[head] = _free_name(f"{stem}_{head}", taken)
        to_mask_image(mask).save(out / files[head])
    return files


def _print(prediction: Prediction) -> None:
    width, height = prediction.size
    click.echo(f"\n{click.style(click.format_filename(prediction.name), bold=True)}  {width}x{height}")
    for head, results in prediction.results.items():
        if len(prediction.results) > 1:
            click.echo(f" {head}" if results else f" {head}: no results")
        if results:
            echo_table([], map(_columns, results))


def _columns(result: Mapping[str, Any]) -> tuple[str, str]:
    """Format a result in two columns: its confidence in percent, if it has one, and its label and other values."""
    confidence = next((result[name] for name in _CONFIDENCES if name in result), None)
    if confidence is not None:
        box = ", ".join(f"{value:.0f}" for value in result.get("box", ()))
        return f"{confidence:7.2%}", f"{result['label']}  at {box}" if box else result["label"]
    numbers = [f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, float)]
    lists = [f"{len(value)} numbers" for value in result.values() if isinstance(value, list)]
    return "", "  ".join([result["label"], *numbers, *lists])


def _free_name(stem: str, taken: set[str]) -> str:
    """Choose a name for a visualization that differs from all names in `taken` ignoring case, and add it to them."""
    name, number = f"{stem}.png", 2
    while name.lower() in taken:
        name, number = f"{stem}_{number}.png", number + 1
    taken.add(name.lower())
    return name
