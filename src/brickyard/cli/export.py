"""`brickyard export` and `brickyard quantize`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.models import image_options, load_trained
from brickyard.cli.output import echo_table, format_metric

_MAX_CALIBRATION_IMAGES = 256  # more images do not change the scales
_KINDS = ["onnx", "pt2", "aoti"]


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    default=None,
    type=click.Choice(_KINDS),
    help="Export format.  [default: by the suffix of FILE, .onnx or .pt2]",
)
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="Name of an output, e.g. seg/logits; repeatable."
)
@click.option(
    "--dynamic",
    multiple=True,
    default=["batch"],
    show_default=True,
    metavar="AXIS",
    help="Dynamic axis: batch, height or width; repeatable.",
)
@click.option(
    "--image-size", nargs=2, type=click.IntRange(min=1), default=None, metavar="H W", help="Image size in pixels."
)
@click.option("--opset", type=click.IntRange(min=1), default=None, help="ONNX opset version.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def export(
    model: str,
    file: Path,
    kind: str | None,
    outputs: tuple[str, ...],
    dynamic: tuple[str, ...],
    image_size: tuple[int, int] | None,
    opset: int | None,
    overwrite: bool,
) -> None:
    """Export the trained MODEL to one FILE that runs without brickyard.

    \b
    brickyard export tf_efficientnet_lite0_cls.in1k model.onnx
    brickyard export mine model.onnx --dynamic batch --dynamic height --dynamic width

    Outputs are compared with those of the model at several batch sizes before FILE is written. `.onnx` runs in
    onnxruntime, `.pt2` in torch; kind aoti compiles for machines like this one.
    """  # noqa: D301 - click reads the \b
    export_format = kind or {".onnx": "onnx", ".pt2": "pt2"}.get(file.suffix)
    if export_format is None:
        raise click.UsageError(f"Unknown export format of {file.name}: use the suffix .onnx or .pt2, or pass --kind.")
    if opset is not None and export_format != "onnx":
        raise click.UsageError("--opset is only for the format onnx.")
    _refuse_existing(file, overwrite)  # before the model is loaded
    collection = load_trained(model)
    values = outputs or None
    if export_format == "onnx":
        brickyard.export_onnx(
            collection, file, outputs=values, dynamic=dynamic, image_size=image_size, opset=opset, overwrite=overwrite
        )
    else:
        write = brickyard.export_pt2 if export_format == "pt2" else brickyard.export_aoti
        write(collection, file, outputs=values, dynamic=dynamic, image_size=image_size, overwrite=overwrite)
    click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data", help="Labelled data set, see `brickyard eval --help`: metrics are measured on it before and after."
)
@click.option(
    "--image-size", type=click.IntRange(min=1), help="Image side of --data in pixels.  [default: that of SOURCE]"
)
@click.option("--length", type=click.IntRange(min=1), help="Measure on the first images of --data only, this many.")
@click.option(
    "--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Number of images per batch."
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def quantize(
    source: Path,
    file: Path,
    images: tuple[Path, ...],
    data: str | None,
    image_size: int | None,
    length: int | None,
    batch_size: int,
    overwrite: bool,
) -> None:
    """Quantize the exported file SOURCE to int8 and write FILE, calibrated on IMAGES: files and folders.

    \b
    brickyard quantize model.onnx small.onnx photos/
    brickyard quantize model.onnx small.onnx --data digits

    Use a hundred images or more like those that the model will see; at most 256 are used. With --data, the metrics on
    the test split are shown before and after; without IMAGES, the validation split is used for calibration.
    """  # noqa: D301 - click reads the \b
    if not images and data is None:
        raise click.UsageError("No images for calibration: pass IMAGES or --data.")
    if data is None and (image_size is not None or length is not None):
        raise click.UsageError("--image-size and --length need --data.")
    _refuse_existing(file, overwrite)
    resized = {} if data is None else image_options(str(source), image_size)
    labelled = None if data is None else brickyard.open_data(data, "test", length=length, **resized)
    measure = partial(brickyard.evaluate, batch_size=batch_size, progress=sys.stderr.isatty())
    before = {} if labelled is None else measure(source, labelled)
    if data is None or images:
        batches = _batches_of_files(source, images, batch_size)
    else:
        batches = _batches_of_data(data, resized, batch_size)
    brickyard.quantize_onnx(source, file, batches, overwrite=overwrite)
    click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB, was {source.stat().st_size / 1e6:.1f} MB")
    if labelled is not None:
        after = measure(file, labelled)
        height, width = labelled[0]["image"].shape[-2:]
        rows = [(metric, format_metric(value), format_metric(after[metric])) for metric, value in before.items()]
        title = f"{data}, {len(labelled)} images of test, {width}x{height} pixels"
        echo_table(["metric", "before", "after"], rows, title=title)


def _refuse_existing(file: Path, overwrite: bool) -> None:
    if file.is_dir() or not file.parent.is_dir():
        raise click.UsageError(f"{file} is a folder, or its folder does not exist: name a file in an existing folder.")
    if file.exists() and not overwrite:
        raise click.UsageError(f"{file} exists. Pass --overwrite to replace it.")


def _batches_of_files(source: Path, sources: Sequence[Path], batch_size: int) -> Iterator[Any]:
    predictor = brickyard.Predictor(source)
    files = predictor.find(sources)
    files = files[:: max(1, ceil(len(files) / _MAX_CALIBRATION_IMAGES))]
    for start in tqdm(range(0, len(files), batch_size), desc="reading", unit="batch", leave=False, disable=None):
        yield predictor.read(files[start : start + batch_size])


def _batches_of_data(data: str, resized: Mapping[str, Any], batch_size: int) -> Iterator[Any]:
    from brickyard.data.batches import evaluation_batches  # noqa: PLC0415

    batches = evaluation_batches(brickyard.open_data(data, "val", **resized), batch_size)
    for batch in islice(batches, ceil(_MAX_CALIBRATION_IMAGES / batch_size)):
        yield batch["image"].numpy()
