"""`brickyard export` and `brickyard quantize`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import brickyard  # its names load torch when they are used, so that --help is quick
from brickyard.cli.models import trained

_CALIBRATED = 256  # pictures: more move the scales no further
_KINDS = ["onnx", "pt2", "aoti"]


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kind", default=None, type=click.Choice(_KINDS), help="[default: by FILE's ending, .onnx or .pt2]")
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="A value to give, e.g. seg/logits; repeatable."
)
@click.option("--dynamic", multiple=True, default=["batch"], show_default=True, metavar="AXIS", help="What may vary.")
@click.option("--image-size", nargs=2, type=click.IntRange(min=1), default=None, metavar="H W", help="Pixels.")
@click.option("--opset", type=click.IntRange(min=1), default=None, help="Of ONNX.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
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
    """Write the trained MODEL as one FILE that runs without brickyard.

    \b
    brickyard export tf_efficientnet_lite0_cls.in1k model.onnx
    brickyard export mine model.onnx --dynamic batch --dynamic height --dynamic width

    It is compared with the model at other batch sizes before it is put in its place. `.onnx` runs in onnxruntime,
    `.pt2` in torch; kind aoti compiles for machines like this one.
    """  # noqa: D301 - click reads the \b
    chosen = kind or {".onnx": "onnx", ".pt2": "pt2"}.get(file.suffix)
    if chosen is None:
        raise click.UsageError(f"What kind is {file.name}? Give it the ending .onnx or .pt2, or pass --kind.")
    if opset is not None and chosen != "onnx":
        raise click.UsageError("--opset is for ONNX only.")
    _refuse_existing(file, overwrite)  # before the work
    collection = trained(model)
    values = outputs or None
    if chosen == "onnx":
        brickyard.export_onnx(
            collection, file, outputs=values, dynamic=dynamic, image_size=image_size, opset=opset, overwrite=overwrite
        )
    else:
        write = brickyard.export_pt2 if chosen == "pt2" else brickyard.export_aoti
        write(collection, file, outputs=values, dynamic=dynamic, image_size=image_size, overwrite=overwrite)
    click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", help="Labelled pictures, see `brickyard eval --help`: what it costs is measured on them.")
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels of a side of --data.  [default: as it has it]")
@click.option("--length", type=click.IntRange(min=1), help="Measure only so many pictures of --data, the first ones.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Pictures at a time.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
def quantize(
    source: Path,
    file: Path,
    pictures: tuple[Path, ...],
    data: str | None,
    image_size: int | None,
    length: int | None,
    batch_size: int,
    overwrite: bool,
) -> None:
    """Write the exported SOURCE in int8 to FILE, calibrated on PICTURES: files, or folders of them.

    \b
    brickyard quantize model.onnx small.onnx photos/
    brickyard quantize model.onnx small.onnx --data digits

    A hundred pictures or more like those that the model will see. With --data, the metrics on its test split are told
    before and after; without PICTURES, the validation split is what is calibrated on. Of many, 256 are taken.
    """  # noqa: D301 - click reads the \b
    if not pictures and data is None:
        raise click.UsageError("What shall it be calibrated on? Give PICTURES, or --data.")
    if data is None and (image_size is not None or length is not None):
        raise click.UsageError("--image-size and --length are of --data.")
    _refuse_existing(file, overwrite)
    labelled = None if data is None else brickyard.open_data(data, "test", length=length, image_size=image_size)
    measure = partial(brickyard.evaluate, batch_size=batch_size, progress=sys.stderr.isatty())
    before = {} if labelled is None else measure(source, labelled)
    if data is None or pictures:
        batches = _of_images(source, pictures, batch_size)
    else:
        batches = _of_data(data, image_size, batch_size)
    brickyard.quantize_onnx(source, file, batches, overwrite=overwrite)
    click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB, was {source.stat().st_size / 1e6:.1f} MB")
    if labelled is not None:
        after = measure(file, labelled)
        table = Table(
            "metric", "before", "after", title=f"{data}, {len(labelled)} pictures of test", title_justify="left"
        )
        for metric, value in before.items():
            table.add_row(metric, f"{value:.4f}", f"{after[metric]:.4f}")
        Console(soft_wrap=True).print(table, highlight=False)


def _refuse_existing(file: Path, overwrite: bool) -> None:
    if file.is_dir() or not file.parent.is_dir():
        raise click.UsageError(f"{file} is a folder, or in none: name a file in a folder that is there.")
    if file.exists() and not overwrite:
        raise click.UsageError(f"{file} is there already. Pass --overwrite to replace it.")


def _of_images(source: Path, pictures: Sequence[Path], batch_size: int) -> Iterator[Any]:
    predictor = brickyard.Predictor(source)
    found = predictor.find(pictures)
    found = found[:: max(1, ceil(len(found) / _CALIBRATED))]
    for start in tqdm(range(0, len(found), batch_size), desc="reading", unit="batch", leave=False, disable=None):
        yield predictor.read(found[start : start + batch_size])


def _of_data(data: str, image_size: int | None, batch_size: int) -> Iterator[Any]:
    from brickyard.data.batches import evaluation_batches  # noqa: PLC0415

    batches = evaluation_batches(brickyard.open_data(data, "val", image_size=image_size), batch_size)
    for batch in islice(batches, ceil(_CALIBRATED / batch_size)):
        yield batch["image"].numpy()
