"""`brickyard train` and `brickyard eval`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.config_file import config_option
from brickyard.cli.data import Ratio, data_option, open_for_heads, several_data_option, split_head
from brickyard.cli.models import frozen_bricks, image_options, is_exported, load_trained, locate, tasks_of
from brickyard.cli.output import echo_table, format_metric
from brickyard.cli.report import TrainingReport
from brickyard.core.names import is_inside
from brickyard.core.specs import AUGMENTATIONS, RESIZE_MODES
from brickyard.training.config import Sched

if TYPE_CHECKING:
    from brickyard.catalog import ModelInfo
    from brickyard.collection import BrickCollection
    from brickyard.core.specs import Augmentation, ResizeMode
    from brickyard.training.config import TrainerConfig, TrainingConfig

Command = TypeVar("Command", bound=Callable[..., Any])


class ImageSize(click.ParamType[tuple[int, int]]):
    """A size in pixels, "96" or "64x192" (height x width), as (height, width)."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
            self.fail(f"expected pixels, as in 96 or 64x192 (height x width), found '{value}'", param, ctx)
        return int(sides[0]), int(sides[-1])


_SKIP_BAD = click.option("--skip-bad", is_flag=True, help="Leave out samples that are damaged.")
_SIZE = click.option(
    "--image-size",
    type=ImageSize(),
    help="Image side in pixels, or height x width.  [default: that of the model; 96 or so for digits and a new model]",
)
_WORKERS = click.option(
    "--workers", default=0, show_default=True, type=click.IntRange(min=0), help="Number of data loading processes."
)
_POSITIVE, _FRACTION = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0, max=1)
_COUNT = click.IntRange(min=1)
_MONITOR = "validation/loss"


# What `brickyard train` and `brickyard add-head` have in common, in the order of --help.
_TRAINING_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option("--steps", default=10_000, show_default=True, type=_COUNT, help="Number of optimizer steps."),
    click.option(
        "--batch-size", default=32, show_default=True, type=_COUNT, help="Number of images per batch and device."
    ),
    click.option(
        "--accumulate",
        default=1,
        show_default=True,
        type=_COUNT,
        help="Batches per optimizer step, whose gradients are averaged.",
    ),
    click.option(
        "--opt", default="adamw", show_default=True, help="Optimizer, by timm's name: adamw, sgd, lamb, lion, ..."
    ),
    click.option("--lr", default=1e-3, show_default=True, type=_POSITIVE, help="Peak learning rate."),
    click.option(
        "--sched",
        default="cosine",
        show_default=True,
        type=click.Choice(get_args(Sched)),
        help="Learning rate after the warmup; cosine, tanh and poly (linear) decay to 0, step to a tenth at each 30%.",
    ),
    click.option("--warmup", default=0.05, show_default=True, type=_FRACTION, help="Fraction of the steps for warmup."),
    click.option("--weight-decay", default=0.05, show_default=True, type=click.FloatRange(min=0), help="Weight decay."),
    click.option(
        "--clip", default=5.0, show_default=True, type=_POSITIVE, help="Maximum norm of the gradients, or inf."
    ),
    click.option(
        "--ema", type=_FRACTION, metavar="DECAY", help="Decay of a moving average of the weights, e.g. 0.999."
    ),
    click.option("--precision", default="32-true", show_default=True, help="Precision: bf16-mixed, 16-mixed, ..."),
    click.option("--allow-nan", is_flag=True, help="Train on when a loss is nan or infinite."),
    click.option(
        "--every", default=1000, show_default=True, type=_COUNT, help="Approximate steps between validations."
    ),
    click.option(
        "--label-smoothing",
        type=click.FloatRange(min=0, max=1, max_open=True),
        metavar="PART",
        help="Label smoothing of the cross-entropy of cls and seg, e.g. 0.1.  [default: as stored, else 0]",
    ),
    _SKIP_BAD,
    click.option("--save-every", default=500, show_default=True, type=_COUNT, help="Steps between checkpoints."),
    click.option(
        "--monitor", default=_MONITOR, show_default=True, help="Metric that selects the best model, e.g. seg/MeanIoU."
    ),
    click.option(
        "--mode",
        type=click.Choice(["min", "max"]),
        help="Whether the smallest or largest value of --monitor is best.  [default: what the metric declares]",
    ),
    click.option(
        "--patience",
        type=_COUNT,
        metavar="N",
        help="Stop after N validations in a row without a better --monitor.  [default: train all steps]",
    ),
    _SIZE,
    click.option(
        "--flip/--no-flip", default=True, show_default=True, help="Random horizontal flips of images from folders."
    ),
    click.option(
        "--augment",
        default="light",
        show_default=True,
        type=click.Choice(AUGMENTATIONS),
        help="Random changes of images from folders: none only resizes, strong has smaller crops and more colors.",
    ),
    click.option(
        "--resize-mode",
        type=click.Choice(RESIZE_MODES),
        help="How images are resized; letterbox keeps the aspect ratio.  [default: as those of the model, else squash]",
    ),
    click.option(
        "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of all random choices."
    ),
    _WORKERS,
    click.option("--accelerator", default="auto", show_default=True, help="Accelerator: cpu, gpu, ..."),
    click.option("--devices", default="1", show_default=True, help="Number of devices per node, or auto for all."),
    click.option("--nodes", default=1, show_default=True, type=_COUNT, help="Number of nodes."),
    click.option("--strategy", default="auto", show_default=True, help="Strategy for several devices: ddp, fsdp, ..."),
)


def training_options(command: Command) -> Command:
    """Add the options of a training: data, hyperparameters and hardware; see `configs_of` for their values."""
    for option in reversed(_TRAINING_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("model", metavar="NAME")
@config_option
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Resume the interrupted training in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the training in --out.")
@click.option("--pretrained", is_flag=True, help="Start from trained weights where available.")
@click.option(
    "--brick", "bricks", multiple=True, metavar="BRICK=SOURCE", help="Start from a brick of another model; repeatable."
)
@click.option("--freeze", multiple=True, metavar="BRICK", help="Freeze a brick: backbone, ...; repeatable.")
@click.option(
    "--unfreeze",
    multiple=True,
    metavar="BRICK[@STEP]",
    help="Train a brick that is stored as frozen in NAME; with backbone@500, freeze it for the first 500 optimizer "
    "steps only. Repeatable.",
)
@click.option("--allow-unlabelled", is_flag=True, help="Train although the data has no labels for some of the heads.")
@click.option(
    "--layer-decay", default=1.0, show_default=True, type=_FRACTION, help="Learning rate factor per backbone layer."
)
@click.option(
    "--logger",
    "loggers",
    multiple=True,
    help="Also log to csv, tensorboard, wandb or mlflow, in the folder loggers of --out or on a server; repeatable.",
)
@several_data_option
@click.option(
    "--ratio", type=Ratio(), help="Images of each --data in a batch, as in 2:1.  [default: as many as it has]"
)
@training_options
def train(
    model: str,
    data: Sequence[str],
    ratio: tuple[float, ...] | None,
    out: Path,
    resume: bool,
    overwrite: bool,
    pretrained: bool,
    bricks: Sequence[str],
    freeze: Sequence[str],
    unfreeze: Sequence[str],
    allow_unlabelled: bool,
    loggers: Sequence[str],
    allow_nan: bool,
    image_size: tuple[int, int] | None,
    resize_mode: ResizeMode | None,
    flip: bool,
    augment: Augmentation,
    skip_bad: bool,
    **options: Any,
) -> None:
    """Train the model NAME on labelled images.

    \b
    brickyard train test_resnet_seg --data digits --out runs/first
    brickyard train resnet18_cls_seg --data pets:path/to/data --pretrained --out runs/pets
    brickyard eval runs/first/best --data digits

    NAME is a name that `brickyard list` shows, or a folder with a saved model. The classes are those of the data. The
    last and the best model, the metrics (log.jsonl), visualizations of the validation, a checkpoint and all options
    (config.yaml) are written to --out; `brickyard train --config runs/first/config.yaml --out runs/second` repeats a
    training. To resume an interrupted training, run the same command with --resume: results are the same as without
    the interruption.

    \b
    Fine-tuning in two stages, first the heads, then everything:
        brickyard train resnet18_seg --data pets:data --pretrained --freeze backbone --out runs/heads
        brickyard train runs/heads/best --data pets:data --unfreeze backbone --lr 1e-4 --out runs/all

    \b
    The same in one training:
        brickyard train resnet18_seg --data pets:data --pretrained --unfreeze backbone@500 --out runs/both
    """  # noqa: D301 - click reads the \b
    if resume and overwrite:
        raise click.BadParameter("it cannot be used with --resume", param_hint="--overwrite")
    config, trainer_config = configs_of({**options, "unfreeze": tuple(unfreeze)})
    info = brickyard.model_info(locate(model))
    height, width = image_size or _training_size(info, data[0])
    resize_mode = resize_mode or info.spec.input.resize_mode
    images: dict[str, Any] = {"flip": flip, "augment": augment, "resize_mode": resize_mode, "skip_bad": skip_bad}
    opening = {"tasks": info.tasks, "ratio": ratio, "image_size": (height, width), "seed": config.seed, **images}
    train_data, val_data = (open_for_heads(data, split, **opening) for split in ("train", "val"))
    created = brickyard.create_model_for(
        train_data, locate(model), pretrained=pretrained, bricks=_parse_bricks(bricks), seed=config.seed
    )
    _freeze(created, freeze, config.unfreeze_steps)
    provenance = {
        "model": model,
        "data": list(data),
        "ratio": None if ratio is None else ":".join(f"{number:g}" for number in ratio),
        "image_size": height if height == width else f"{height}x{width}",
        **images,
        "pretrained": pretrained,
        "bricks": list(bricks),
        "freeze": list(freeze),
    }
    report = TrainingReport(out, ", ".join(data), (height, width))
    with told_to_resume():
        brickyard.fit(
            created,
            train_data,
            val_data,
            out,
            config,
            trainer_config,
            resume=resume,
            overwrite=overwrite,
            allow_unlabelled=allow_unlabelled,
            allow_nan=allow_nan,
            provenance=provenance,
            progress=sys.stderr.isatty(),
            on_validation=report.add,
            loggers=loggers,
        )
    report.end()


@click.command(name="eval")
@click.argument("name")
@data_option
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
@click.option(
    "--report",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write metrics of each class, confusion matrices, curves and the worst images to this folder.",
)
@click.option(
    "--worst", default=16, show_default=True, type=click.IntRange(min=0), help="Number of worst images of --report."
)
def evaluate(
    name: str,
    data: str,
    split: str,
    length: int | None,
    batch_size: int,
    skip_bad: bool,
    image_size: tuple[int, int] | None,
    seed: int,
    workers: int,
    device: str | None,
    file: Path | None,
    folder: Path | None,
    worst: int,
) -> None:
    """Measure the metrics of the trained model NAME on labelled images.

    NAME is a zoo model, a folder with a saved model, a repo on the Hub as hf://user/repo, or what `brickyard export` or
    `brickyard quantize` wrote (a file .onnx, or a folder of them). Results are reproducible on one machine.
    """
    model = name if is_exported(name) else load_trained(name)
    options = image_options(model, image_size)
    dataset = open_for_heads([data], split, tasks_of(model), length=length, seed=seed, skip_bad=skip_bad, **options)
    report = None if folder is None else brickyard.EvaluationReport(dataset, worst)
    metrics = brickyard.evaluate(
        model,
        dataset,
        batch_size=batch_size,
        workers=workers,
        device=device,
        progress=sys.stderr.isatty(),
        on_batch=None if report is None else report.update,
    )
    height, width = dataset[0]["image"].shape[-2:]
    if file is not None:  # first: whatever happens to the table, the measurement is not lost
        settings = {"model": name, "data": data, "split": split, "length": len(dataset)}
        settings["image_size"] = height if height == width else [height, width]
        numbers = {metric: None if isnan(value) else value for metric, value in metrics.items()}  # JSON has no nan
        file.write_text(json.dumps({**settings, "seed": seed, "metrics": numbers}, indent=2) + "\n", encoding="utf-8")
    rows = [(metric, format_metric(value)) for metric, value in metrics.items()]
    echo_table(["metric", data], rows, title=f"{name}, {len(dataset)} images of {split}, {width}x{height} pixels")
    if report is not None and folder is not None:
        click.echo(f"Report in {folder}: {', '.join(report.write(folder, metrics))}.")


def configs_of(options: dict[str, Any]) -> tuple[TrainingConfig, TrainerConfig]:
    """Divide the values of `training_options` that are about the training itself into its hyperparameters and hardware.

    Args:
        options: The values by name, without those for the images.
    """
    hardware = {name: options[name] for name in ("accelerator", "nodes", "strategy", "workers")}
    trainer_config = brickyard.TrainerConfig(devices=_parse_devices(options["devices"]), **hardware)
    rest = {name: value for name, value in options.items() if name not in (*hardware, "devices")}
    return brickyard.TrainingConfig(**rest), trainer_config


@contextmanager
def told_to_resume() -> Iterator[None]:
    """End the process with a hint to --resume if the training within the block is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Lightning converts the first to the second
        click.echo("Interrupted. Run the same command with --resume to resume from the last checkpoint.", err=True)
        sys.exit(130)


def _parse_bricks(bricks: Sequence[str]) -> dict[str, str] | None:
    for brick in bricks:
        if "=" not in brick:
            raise click.BadParameter(f"expected BRICK=SOURCE, found '{brick}'", param_hint="--brick")
    return dict(brick.split("=", 1) for brick in bricks) or None


def _parse_devices(devices: str) -> int | str:
    return int(devices) if devices.isdigit() else devices


def _training_size(info: ModelInfo, data: str) -> tuple[int, int]:
    """Return the image size of the model; generated images have their own for a new model that takes any size."""
    from brickyard.data.readers import scene_size  # noqa: PLC0415 - it loads torch, and --help must be fast

    images = info.spec.input
    generated = scene_size(split_head(data)[1]) if info.weights is None and not images.fixed else None
    return generated or images.size


def _freeze(model: BrickCollection, freeze: Sequence[str], unfreeze: Collection[str]) -> None:
    """Freeze bricks, and tell which others stay frozen as they were stored; `fit` unfreezes."""
    for option, paths in (("--freeze", freeze), ("--unfreeze", unfreeze)):
        for path in paths:
            if path not in model:
                known = ", ".join(model)
                raise click.BadParameter(f"unknown brick '{path}': expected one of {known}", param_hint=option)
            if option == "--freeze":
                model.freeze(path)
    for path in frozen_bricks(model):
        if not any(is_inside(path, chosen) for chosen in (*freeze, *unfreeze)):
            hint = f"--unfreeze {path} trains it, --freeze {path} confirms it."
            click.echo(f"Brick '{path}' stays frozen, as it is stored. {hint}", err=True)
