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
from brickyard.storage.locks import temp_folder

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
@click.option("--head", "heads", multiple=True, metavar="NAME", help="Head to export; repeatable.  [default: all]")
@click.option("--split", is_flag=True, help="Write a folder FILE: backbone.onnx, and a file for each head.")
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
    heads: tuple[str, ...],
    split: bool,
    dynamic: tuple[str, ...],
    image_size: tuple[int, int] | None,
    opset: int | None,
    overwrite: bool,
) -> None:
    """Export the trained MODEL to one FILE that runs without brickyard.

    \b
    brickyard export tf_efficientnet_lite0_cls.in1k model.onnx
    brickyard export mine model.onnx --dynamic batch --dynamic height --dynamic width
    brickyard export mine deployed --split              the backbone and each head in a file of its own
    brickyard export other deployed --split --head seg  add a head of the same backbone, or replace it: --overwrite

    Outputs are compared with those of the model at several batch sizes before FILE is written. `.onnx` runs in
    onnxruntime, `.pt2` in torch; kind aoti compiles for machines like this one.
    """  # noqa: D301 - click reads the \b
    export_format = kind or ("onnx" if split else {".onnx": "onnx", ".pt2": "pt2"}.get(file.suffix))
    if export_format is None:
        raise click.UsageError(f"Unknown export format of {file.name}: use the suffix .onnx or .pt2, or pass --kind.")
    if opset is not None and export_format != "onnx":
        raise click.UsageError("--opset is only for the format onnx.")
    if (split or heads) and export_format != "onnx":
        raise click.UsageError("--split and --head are only for the format onnx.")
    if not split:
        _refuse_existing(file, overwrite)  # before the model is loaded
    collection = load_trained(model)
    values = outputs or None
    if export_format == "onnx":
        brickyard.export_onnx(
            collection,
            file,
            outputs=values,
            heads=heads or None,
            split=split,
            dynamic=dynamic,
            image_size=image_size,
            opset=opset,
            overwrite=overwrite,
        )
    else:
        write = brickyard.export_pt2 if export_format == "pt2" else brickyard.export_aoti
        write(collection, file, outputs=values, dynamic=dynamic, image_size=image_size, overwrite=overwrite)
    for written in sorted(file.rglob("*.onnx")) if split else [file]:
        click.echo(f"{written}  {_megabytes(written)}")


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
@click.option(
    "--brick",
    "bricks",
    multiple=True,
    metavar="NAME",
    help="Brick to quantize, e.g. backbone or seg; the others stay in float; repeatable.  [default: all]",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def quantize(
    source: Path,
    file: Path,
    images: tuple[Path, ...],
    bricks: tuple[str, ...],
    data: str | None,
    image_size: int | None,
    length: int | None,
    batch_size: int,
    overwrite: bool,
) -> None:
    """Quantize the exported file or folder SOURCE to int8 and write FILE, calibrated on IMAGES: files and folders.

    \b
    brickyard quantize model.onnx small.onnx photos/
    brickyard quantize model.onnx small.onnx --data digits
    brickyard quantize model.onnx small.onnx --data digits --brick backbone

    Use a hundred images or more like those that the model will see; at most 256 are used. With --data, the metrics of
    each head on the test split are shown in float, for FILE, and for int8 of all bricks and of the backbone only;
    without IMAGES, the validation split is used for calibration.
    """  # noqa: D301 - click reads the \b
    if not images and data is None:
        raise click.UsageError("No images for calibration: pass IMAGES or --data.")
    if data is None and (image_size is not None or length is not None):
        raise click.UsageError("--image-size and --length need --data.")
    _refuse_existing(file, overwrite, is_folder=source.is_dir())
    resized = {} if data is None else image_options(str(source), image_size)
    labelled = None if data is None else brickyard.open_data(data, "test", length=length, **resized)
    measure = partial(brickyard.evaluate, batch_size=batch_size, progress=sys.stderr.isatty())
    before = {} if labelled is None else measure(source, labelled)
    if data is None or images:
        batches = list(_batches_of_files(source, images, batch_size))
    else:
        batches = list(_batches_of_data(data, resized, batch_size))
    chosen = bricks or None
    brickyard.quantize_onnx(source, file, batches, bricks=chosen, overwrite=overwrite)
    click.echo(f"{file}  {_megabytes(file)}, was {_megabytes(source)}")
    if labelled is None:
        return
    columns = {"float": before, f"{_kind(chosen)} (FILE)": measure(file, labelled)}
    with temp_folder("brickyard-quantize-") as folder:
        for others in _alternatives(source, chosen):
            other = folder / file.name
            brickyard.quantize_onnx(source, other, batches, bricks=others, overwrite=True)
            columns[_kind(others)] = measure(other, labelled)
    height, width = labelled[0]["image"].shape[-2:]
    rows = [(metric, *(format_metric(column[metric]) for column in columns.values())) for metric in before]
    title = f"{data}, {len(labelled)} images of test, {width}x{height} pixels"
    echo_table(["metric", *columns], rows, title=title)


def _alternatives(source: Path, chosen: Sequence[str] | None) -> list[Sequence[str] | None]:
    """Return which bricks are quantised for comparison: all, and the backbone only, without what FILE has."""
    from brickyard.export.quantize import quantizable_bricks  # noqa: PLC0415 - it loads torch, and --help must be fast

    backbone = ["backbone"] if "backbone" in quantizable_bricks(source) else None
    kinds: list[Sequence[str] | None] = [None] if backbone is None else [None, backbone]
    return [kind for kind in kinds if kind != (None if chosen is None else list(chosen))]


def _kind(bricks: Sequence[str] | None) -> str:
    return "int8" if bricks is None else f"int8 of {', '.join(bricks)}"


def _megabytes(path: Path) -> str:
    files = path.rglob("*.onnx") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def _refuse_existing(file: Path, overwrite: bool, *, is_folder: bool = False) -> None:
    if (file.is_dir() and not is_folder) or not file.parent.is_dir():
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
