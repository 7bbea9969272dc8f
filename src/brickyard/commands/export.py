"""`brickyard export` and `brickyard quantize`."""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

import brickyard  # its names load torch when they are used, so that --help is quick

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
    brickyard export local-dir:mine model.onnx --dynamic batch --dynamic height --dynamic width

    It is compared with the model at other batch sizes before it is put in its place. `.onnx` runs in onnxruntime,
    `.pt2` in torch; kind aoti compiles for machines like this one.
    """  # noqa: D301 - click reads the \b
    chosen = kind or {".onnx": "onnx", ".pt2": "pt2"}.get(file.suffix)
    if chosen is None:
        raise click.UsageError(f"What kind is {file.name}? Give it the ending .onnx or .pt2, or pass --kind.")
    if opset is not None and chosen != "onnx":
        raise click.UsageError("--opset is for ONNX only.")
    trained = brickyard.create_model(model, pretrained=True)
    values = outputs or None
    if chosen == "onnx":
        brickyard.export_onnx(
            trained, file, outputs=values, dynamic=dynamic, image_size=image_size, opset=opset, overwrite=overwrite
        )
    else:
        write = brickyard.export_pt2 if chosen == "pt2" else brickyard.export_aoti
        write(trained, file, outputs=values, dynamic=dynamic, image_size=image_size, overwrite=overwrite)
    click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Pictures at a time.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
def quantize(source: Path, file: Path, pictures: tuple[Path, ...], batch_size: int, overwrite: bool) -> None:
    """Write the exported SOURCE in int8 to FILE, calibrated on PICTURES: files, or folders of them.

    A hundred pictures or more like those that the model will see. What it costs tell `brickyard eval SOURCE --data ...`
    and `brickyard eval FILE --data ...`.
    """
    predictor = brickyard.Predictor(source)
    found = predictor.find(pictures)
    starts = tqdm(range(0, len(found), batch_size), desc="reading", unit="batch", leave=False, disable=None)
    batches = (predictor.read(found[start : start + batch_size]) for start in starts)
    brickyard.quantize_onnx(source, file, batches, overwrite=overwrite)
    click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB, was {source.stat().st_size / 1e6:.1f} MB")
