"""`brickyard import`: public checkpoints of other libraries as models."""

from __future__ import annotations

from pathlib import Path

import click

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli.output import echo_table


@click.command(name="import")
@click.argument("source", required=False)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--weights",
    default=None,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Checkpoint file instead of the download.",
)
@click.option("--overwrite", "exist_ok", is_flag=True, help="Replace the model in FOLDER, and its card.")
@click.option("--list", "is_list", is_flag=True, help="List the sources.")
def import_command(
    source: str | None, folder: Path | None, weights: Path | None, exist_ok: bool, is_list: bool
) -> None:
    """Write the public checkpoint SOURCE of another library as a model into FOLDER.

    \b
    brickyard import torchvision:fcos_resnet50_fpn models/fcos
    brickyard import --list
    """  # noqa: D301 - click reads the \b
    if is_list:
        from brickyard.importers.importing import IMPORTS  # noqa: PLC0415 - it loads torch

        rows = []
        for entry in IMPORTS.values():
            metrics = [f"{name} {value:g}" for values in entry.metrics.values() for name, value in values.items()]
            size = f"{entry.size / 1e6:.1f} MB"
            rows.append((entry.source, entry.name, ", ".join(entry.tasks), ", ".join(metrics), entry.licence, size))
        echo_table(["source", "model", "tasks", "metrics that the source states", "licence", "download"], rows)
        return
    if source is None or folder is None:
        raise click.UsageError("Expected SOURCE and FOLDER, or --list.")
    from brickyard.storage.card import write_card  # noqa: PLC0415 - they load torch
    from brickyard.storage.weights import target_folder  # noqa: PLC0415

    folder = target_folder(folder, exist_ok)  # raises before the download
    model = brickyard.import_model(source, weights=weights)
    model.save_pretrained(folder, exist_ok=exist_ok)
    write_card(folder)
    click.echo(f"{len(model.bricks())} bricks in {folder}")
