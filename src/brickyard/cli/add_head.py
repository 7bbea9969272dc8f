"""`brickyard add-head`: a new head of a trained model, trained alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.data import data_option
from brickyard.cli.models import image_options, load_trained, locate
from brickyard.cli.report import TrainingReport
from brickyard.cli.train import configs_of, told_to_resume, training_options

if TYPE_CHECKING:
    from brickyard.core.specs import Augmentation, ResizeMode

_LOCAL = "local-dir:"


@click.command(name="add-head")
@click.argument("name", metavar="FOLDER")
@click.argument("head", metavar="NAME=TASK")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the model with the new head into this folder instead of FOLDER.",
)
@click.option(
    "--run",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the training run.  [default: next to that of the model, with the name of the head]",
)
@click.option("--resume", is_flag=True, help="Resume the interrupted training in --run.")
@click.option("--overwrite", is_flag=True, help="Replace the training in --run.")
@data_option
@training_options
def add_head(
    name: str,
    head: str,
    data: str,
    out: Path | None,
    run: Path | None,
    resume: bool,
    overwrite: bool,
    allow_nan: bool,
    image_size: Any,
    resize_mode: ResizeMode | None,
    flip: bool,
    augment: Augmentation,
    skip_bad: bool,
    **options: Any,
) -> None:
    """Add the head NAME to the model in FOLDER and train it alone, with everything else frozen.

    \b
    brickyard add-head models/mine parts=seg-unet --data coco:path/to/data
    brickyard add-head tf_efficientnet_lite0_cls.in1k seg --data pets:path/to/data --out models/pets

    TASK is a task, with or without one of its heads, such as seg or seg-unet; NAME alone is both. The head is trained
    on the label NAME of the data, or else that of the name of the task. The files of the new head are added to FOLDER;
    no other file changes but the list of the bricks, so the other heads give the same results to the bit. FOLDER may
    also be the name of a trained model, together with --out. To resume an interrupted training, run the same command
    with --resume.
    """  # noqa: D301 - click reads the \b
    if resume and overwrite:
        raise click.BadParameter("it cannot be used with --resume", param_hint="--overwrite")
    folder, target = _folders(name, out)
    name_of_head, _, task = head.partition("=")
    task = task or name_of_head
    config, trainer_config = configs_of(options)
    model = load_trained(name)
    from brickyard.training.add_head import new_head  # noqa: PLC0415 - it loads torch, and --help must be fast

    new_head(model, name_of_head, task)  # raises before the data is read
    run = run or target.absolute().with_name(f"{target.absolute().name}-{name_of_head}")
    images = {**image_options(model, image_size), "flip": flip, "augment": augment, "skip_bad": skip_bad}
    if resize_mode is not None:
        images["resize_mode"] = resize_mode
    train_data, val_data = (brickyard.open_data(data, split, seed=config.seed, **images) for split in ("train", "val"))
    height, width = (int(side) for side in train_data[0]["image"].shape[-2:])
    report = TrainingReport(run, data, (height, width), target)
    provenance = {"model": name, "data": data, **images, "image_size": [height, width]}
    with told_to_resume():
        brickyard.add_head(
            model,
            name_of_head,
            task,
            train_data,
            val_data,
            run,
            config,
            trainer_config,
            resume=resume,
            overwrite=overwrite,
            allow_nan=allow_nan,
            provenance=provenance,
            progress=sys.stderr.isatty(),
            on_validation=report.add,
        )
    from brickyard.core.distributed import rank  # noqa: PLC0415 - it loads torch, and --help must be fast

    if rank() == 0:
        model.save_pretrained(target, bricks=name_of_head if target == folder else None)
        report.end()
        click.echo(f"{target} has the new head '{name_of_head}'. The run is in {run}.")


def _folders(name: str, out: Path | None) -> tuple[Path | None, Path]:
    """Return the folder of the model, None if it has none, and the one to write to: the same, or an empty one."""
    from brickyard.storage.weights import target_folder  # noqa: PLC0415 - it loads torch, and --help must be fast

    source = locate(name)
    folder = Path(source.removeprefix(_LOCAL)) if source.startswith(_LOCAL) else None
    if out is not None and (folder is None or out.expanduser().absolute() != folder):
        return folder, target_folder(out, exist_ok=False)
    if folder is None:
        raise click.BadParameter(f"it is needed, since '{name}' is not a folder with a model", param_hint="--out")
    return folder, folder
