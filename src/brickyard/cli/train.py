"""`brickyard train` and `brickyard eval`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import click

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.models import load_trained, locate, resize_mode_of
from brickyard.cli.output import echo_table, make_console
from brickyard.core.specs import RESIZE_MODES

_DATA = click.option(
    "--data",
    required=True,
    help="Data set: digits, or coco:FOLDER, yolo:FOLDER, voc:FOLDER, imagefolder:FOLDER or pets:FOLDER; "
    "help(brickyard.open_data) has the layouts.",
)
_SKIP_BAD = click.option("--skip-bad", is_flag=True, help="Leave out samples that are damaged.")
_SIZE = click.option(
    "--image-size", type=click.IntRange(min=1), help="Image side in pixels.  [default: that of the data]"
)
_WORKERS = click.option(
    "--workers", default=0, show_default=True, type=click.IntRange(min=0), help="Number of data loading processes."
)
_POSITIVE, _FRACTION = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0, max=1)
_COUNT = click.IntRange(min=1)


@click.command()
@click.argument("name")
@_DATA
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Resume the interrupted training in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the training in --out.")
@click.option("--pretrained", is_flag=True, help="Start from trained weights where available.")
@click.option(
    "--brick", "bricks", multiple=True, metavar="BRICK=SOURCE", help="Start from a brick of another model; repeatable."
)
@click.option("--freeze", multiple=True, metavar="BRICK", help="Freeze a brick: backbone, ...; repeatable.")
@click.option("--steps", default=10_000, show_default=True, type=_COUNT, help="Number of optimizer steps.")
@click.option("--batch-size", default=32, show_default=True, type=_COUNT, help="Number of images per step and device.")
@click.option("--lr", default=1e-3, show_default=True, type=_POSITIVE, help="Peak learning rate.")
@click.option("--weight-decay", default=0.05, show_default=True, type=click.FloatRange(min=0), help="Weight decay.")
@click.option(
    "--layer-decay", default=1.0, show_default=True, type=_FRACTION, help="Learning rate factor per backbone layer."
)
@click.option("--ema", type=_FRACTION, metavar="DECAY", help="Decay of a moving average of the weights, e.g. 0.999.")
@click.option("--precision", default="32-true", show_default=True, help="Precision: bf16-mixed, 16-mixed, ...")
@click.option("--every", default=1000, show_default=True, type=_COUNT, help="Approximate steps between validations.")
@_SKIP_BAD
@_SIZE
@click.option(
    "--flip/--no-flip", default=True, show_default=True, help="Random horizontal flips of images from folders."
)
@click.option(
    "--resize-mode",
    type=click.Choice(RESIZE_MODES),
    help="How images are resized; letterbox keeps the aspect ratio.  [default: as those of the model, else squash]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of all random choices.")
@_WORKERS
@click.option("--accelerator", default="auto", show_default=True, help="Accelerator: cpu, gpu, ...")
@click.option("--devices", default="1", show_default=True, help="Number of devices per node, or auto for all.")
@click.option("--nodes", default=1, show_default=True, type=_COUNT, help="Number of nodes.")
@click.option("--strategy", default="auto", show_default=True, help="Strategy for several devices: ddp, fsdp, ...")
def train(
    name: str,
    data: str,
    out: Path,
    resume: bool,
    overwrite: bool,
    pretrained: bool,
    bricks: Sequence[str],
    freeze: Sequence[str],
    **options: Any,
) -> None:
    """Train the model NAME on labelled images.

    \b
    brickyard train test_resnet_seg --data digits --out runs/first
    brickyard train resnet18_cls_seg --data pets:path/to/data --pretrained --out runs/pets
    brickyard eval runs/first/best --data digits

    NAME is a name that `brickyard list` shows, or a folder with a saved model. The classes are those of the data. The
    last and the best model, the metrics (log.jsonl), visualizations of the validation and a checkpoint are written to
    --out. To resume an interrupted training, run the same command with --resume: results are the same as without the
    interruption.
    """  # noqa: D301 - click reads the \b
    if resume and overwrite:
        raise click.BadParameter("it cannot be used with --resume", param_hint="--overwrite")
    trainer_config = brickyard.TrainerConfig(
        accelerator=options.pop("accelerator"),
        devices=_parse_devices(options.pop("devices")),
        nodes=options.pop("nodes"),
        strategy=options.pop("strategy"),
        workers=options.pop("workers"),
    )
    images = {name: options.pop(name) for name in ("image_size", "flip", "resize_mode", "skip_bad")}
    images["resize_mode"] = images["resize_mode"] or brickyard.model_info(locate(name)).spec.input.resize_mode
    seed = options["seed"]
    datasets = {split: brickyard.open_data(data, split, seed=seed, **images) for split in ("train", "val")}
    model = brickyard.create_model_for(
        datasets["train"], locate(name), pretrained=pretrained, bricks=_parse_bricks(bricks), seed=seed
    )
    for path in freeze:
        if path not in model:
            raise click.BadParameter(
                f"unknown brick '{path}': expected one of {', '.join(model)}", param_hint="--freeze"
            )
        model.freeze(path)
    provenance = {
        "model": name,
        "data": data,
        **images,
        "pretrained": pretrained,
        "bricks": list(bricks),
        "freeze": list(freeze),
    }
    console = make_console()
    try:
        brickyard.fit(
            model,
            datasets["train"],
            datasets["val"],
            out,
            brickyard.TrainingConfig(**options),
            trainer_config,
            resume=resume,
            overwrite=overwrite,
            provenance=provenance,
            progress=sys.stderr.isatty(),
            on_validation=lambda step, metrics: console.print(
                _format_metrics(step, metrics), highlight=False, markup=False
            ),
        )
    except (KeyboardInterrupt, SystemExit):  # Lightning converts the first to the second
        click.echo("Interrupted. Run the same command with --resume to resume from the last checkpoint.", err=True)
        sys.exit(130)


@click.command(name="eval")
@click.argument("name")
@_DATA
@click.option("--split", default="test", show_default=True, help="Split: train, val, test or another of the data.")
@click.option("--length", type=_COUNT, help="Use the first images only, this many.")
@click.option("--batch-size", default=32, show_default=True, type=_COUNT, help="Number of images per batch.")
@_SKIP_BAD
@_SIZE
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of synthetic data.")
@_WORKERS
@click.option("--device", default=None, help="Device: cpu, cuda, ...  [default: a GPU if there is one]")
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the metrics to this file."
)
def evaluate(
    name: str,
    data: str,
    split: str,
    length: int | None,
    batch_size: int,
    skip_bad: bool,
    image_size: int | None,
    seed: int,
    workers: int,
    device: str | None,
    file: Path | None,
) -> None:
    """Measure the metrics of the trained model NAME on labelled images.

    NAME is a zoo model, a folder with a saved model, a repo on the Hub as hf://user/repo, or a file written by
    `brickyard export` or `brickyard quantize` (.onnx). Results are reproducible on one machine.
    """
    model = name if name.endswith(".onnx") else load_trained(name)
    dataset = brickyard.open_data(
        data,
        split,
        length=length,
        image_size=image_size,
        seed=seed,
        resize_mode=resize_mode_of(model),
        skip_bad=skip_bad,
    )
    metrics = brickyard.evaluate(
        model, dataset, batch_size=batch_size, workers=workers, device=device, progress=sys.stderr.isatty()
    )
    if file is not None:
        settings = {"model": name, "data": data, "split": split, "length": len(dataset), "image_size": image_size}
        numbers = {metric: None if isnan(value) else value for metric, value in metrics.items()}  # JSON has no nan
        file.write_text(json.dumps({**settings, "seed": seed, "metrics": numbers}, indent=2) + "\n", encoding="utf-8")
    rows = [(metric, f"{value:.4f}") for metric, value in metrics.items()]
    echo_table(["metric", data], rows, title=f"{name}, {len(dataset)} images of {split}")


def _parse_bricks(bricks: Sequence[str]) -> dict[str, str] | None:
    for brick in bricks:
        if "=" not in brick:
            raise click.BadParameter(f"expected BRICK=SOURCE, found '{brick}'", param_hint="--brick")
    return dict(brick.split("=", 1) for brick in bricks) or None


def _parse_devices(devices: str) -> int | str:
    return int(devices) if devices.isdigit() else devices


def _format_metrics(step: int, metrics: dict[str, float]) -> str:
    """Format the metrics of a validation in one line, without those of single classes and undefined ones (-1)."""
    names = {name: name.partition("/")[2] for name in metrics}
    texts = [
        f"{names[name]} {value:.4f}" for name, value in metrics.items() if names[name].count("/") < 2 and value != -1
    ]
    return f"step {step}  " + "  ".join(texts)
