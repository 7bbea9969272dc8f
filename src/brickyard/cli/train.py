"""`brickyard train` and `brickyard eval`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

import brickyard  # its names load torch when they are used, so that --help is quick
from brickyard.cli.models import locate, trained

if TYPE_CHECKING:
    from brickyard.data.synthetic.backgrounds import Split

_DATA = click.option("--data", required=True, help="digits, coco:FOLDER, yolo:FOLDER, pets:FOLDER or voc:FOLDER.")
_SIZE = click.option(
    "--image-size", type=click.IntRange(min=1), help="Pixels of a side.  [default: as the data has it]"
)
_WORKERS = click.option(
    "--workers", default=0, show_default=True, type=click.IntRange(min=0), help="Processes that read pictures."
)
_POSITIVE, _SHARE = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0, max=1)
_COUNT = click.IntRange(min=1)


@click.command()
@click.argument("name")
@_DATA
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the training.")
@click.option("--resume", is_flag=True, help="Go on with the training in --out, wherever it was interrupted.")
@click.option("--pretrained", is_flag=True, help="Start from trained weights, where there are any.")
@click.option(
    "--brick", "bricks", multiple=True, metavar="BRICK=PLACE", help="Start with a brick of another model; repeatable."
)
@click.option("--freeze", multiple=True, metavar="BRICK", help="Leave a brick as it is: backbone, ...; repeatable.")
@click.option("--steps", default=10_000, show_default=True, type=_COUNT, help="Of the optimizer.")
@click.option("--batch-size", default=32, show_default=True, type=_COUNT, help="Pictures a step and device.")
@click.option("--lr", default=1e-3, show_default=True, type=_POSITIVE, help="Highest learning rate; it falls to 0.")
@click.option("--weight-decay", default=0.05, show_default=True, type=click.FloatRange(min=0))
@click.option("--layer-decay", default=1.0, show_default=True, type=_SHARE, help="From layer to layer of the backbone.")
@click.option("--ema", type=_SHARE, metavar="DECAY", help="Average the weights over the steps: 0.999, ...")
@click.option("--precision", default="32-true", show_default=True, help="bf16-mixed, 16-mixed, ...")
@click.option("--every", default=1000, show_default=True, type=_COUNT, help="Steps between two validations, about.")
@_SIZE
@click.option(
    "--flip/--no-flip", default=True, show_default=True, help="Mirror half of a folder's pictures; not for text."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Another one is another training."
)
@_WORKERS
@click.option("--accelerator", default="auto", show_default=True, help="cpu, gpu, ...")
@click.option("--devices", default="1", show_default=True, help="How many on each machine, or auto for all.")
@click.option("--nodes", default=1, show_default=True, type=_COUNT, help="How many machines.")
@click.option("--strategy", default="auto", show_default=True, help="ddp, fsdp, ... for several devices.")
def train(
    name: str,
    data: str,
    out: Path,
    resume: bool,
    pretrained: bool,
    bricks: Sequence[str],
    freeze: Sequence[str],
    **options: Any,
) -> None:
    """Train the model NAME on labelled pictures.

    \b
    brickyard train test_resnet_seg --data digits --out runs/first
    brickyard train resnet18_cls_seg --data pets:path/to/data --pretrained --out runs/pets
    brickyard eval runs/first/best --data digits

    NAME is one that `brickyard list` shows, or a folder with a saved model. The classes are those of the data. The
    folder --out gets the model as it was last and as it was best, the figures in log.jsonl, pictures of the validation,
    and checkpoints. A training that was interrupted goes on with the same command and --resume, as if it had not been.
    """  # noqa: D301 - click reads the \b
    machines = brickyard.TrainerConfig(
        accelerator=options.pop("accelerator"),
        devices=_number(options.pop("devices")),
        nodes=options.pop("nodes"),
        strategy=options.pop("strategy"),
        workers=options.pop("workers"),
    )
    image_size, flip, seed = options.pop("image_size"), options.pop("flip"), options["seed"]
    pictures = {
        split: brickyard.open_data(data, split, image_size=image_size, seed=seed, flip=flip)
        for split in ("train", "val")
    }
    taken = _by_path(bricks)
    model = brickyard.create_model_for(pictures["train"], locate(name), pretrained=pretrained, bricks=taken, seed=seed)
    for path in freeze:
        if path not in model:
            raise click.BadParameter(f"'{path}' is none of {', '.join(model)}", param_hint="--freeze")
        model.freeze(path)
    provenance = {
        "model": name,
        "data": data,
        "image_size": image_size,
        "flip": flip,
        "pretrained": pretrained,
        "bricks": list(bricks),
        "freeze": list(freeze),
    }
    console = Console(soft_wrap=True)
    try:
        brickyard.fit(
            model,
            pictures["train"],
            pictures["val"],
            out,
            brickyard.TrainingConfig(**options),
            machines,
            resume=resume,
            provenance=provenance,
            progress=sys.stderr.isatty(),
            tell=lambda step, figures: console.print(_line(step, figures), highlight=False),
        )
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one of the other
        click.echo("Interrupted. The same command with --resume goes on from the last checkpoint.", err=True)
        sys.exit(130)


@click.command(name="eval")
@click.argument("name")
@_DATA
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option("--length", type=_COUNT, help="Only so many pictures, the first ones.")
@click.option("--batch-size", default=32, show_default=True, type=_COUNT, help="Pictures at a time.")
@_SIZE
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of data that is made by chance."
)
@_WORKERS
@click.option("--device", default=None, help="cpu, cuda, ...  [default: a GPU if there is one]")
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures to a file, too."
)
def evaluate(
    name: str,
    data: str,
    split: Split,
    length: int | None,
    batch_size: int,
    image_size: int | None,
    seed: int,
    workers: int,
    device: str | None,
    file: Path | None,
) -> None:
    """Measure the trained model NAME on labelled pictures.

    NAME is a model of the zoo, a folder with a saved model, a repo of the Hub as hf://user/repo, or a file that
    `brickyard export` or `brickyard quantize` wrote (.onnx). On one machine, the figures are the same each time.
    """
    pictures = brickyard.open_data(data, split, length=length, image_size=image_size, seed=seed)
    model = name if name.endswith(".onnx") else trained(name)
    figures = brickyard.evaluate(
        model, pictures, batch_size=batch_size, workers=workers, device=device, progress=sys.stderr.isatty()
    )
    table = Table("metric", data, title=f"{name}, {len(pictures)} pictures of {split}", title_justify="left")
    for metric, value in figures.items():
        table.add_row(metric, f"{value:.4f}")
    Console(soft_wrap=True).print(table, highlight=False)
    if file is not None:
        about = {"model": name, "data": data, "split": split, "length": len(pictures), "image_size": image_size}
        known = {metric: None if isnan(value) else value for metric, value in figures.items()}
        file.write_text(json.dumps({**about, "seed": seed, "metrics": known}, indent=2) + "\n", encoding="utf-8")


def _by_path(bricks: Sequence[str]) -> dict[str, str] | None:
    for brick in bricks:
        if "=" not in brick:
            raise click.BadParameter(f"expected BRICK=PLACE, found '{brick}'", param_hint="--brick")
    return dict(brick.split("=", 1) for brick in bricks) or None


def _number(devices: str) -> int | str:
    return int(devices) if devices.isdigit() else devices


def _line(step: int, figures: dict[str, float]) -> str:
    """The figures of a validation, without those of single classes."""
    short = {name.partition("/")[2]: value for name, value in figures.items()}
    told = [f"{name} {value:.4f}" for name, value in short.items() if name.count("/") < 2 and value != -1]
    return f"step {step}  " + "  ".join(told)
