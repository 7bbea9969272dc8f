"""The command line: `brickyard --help`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from huggingface_hub.errors import HfUriError, HFValidationError, RevisionResolutionError
from rich.console import Console
from rich.table import Table

import brickyard  # its names load torch when they are used, so that --help is quick
from brickyard.cli import export, hub, predict, train
from brickyard.cli.models import locate
from brickyard.errors import BrickError


class _Commands(click.Group):
    """Commands whose expected errors are one clear line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrickError, OSError, HFValidationError, HfUriError, RevisionResolutionError) as error:
            raise click.ClickException(" ".join(str(error).split())) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(brickyard.__version__)
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import a module first, which registers tasks or parts of your own; repeatable.",
)
def main(modules: Sequence[str]) -> None:
    """A zoo of multi-task vision models made of bricks.

    \b
    brickyard predict photo.jpg                say what is on a picture
    brickyard list "resnet*_cls_seg"           find models
    brickyard inspect hf://user/repo/seg       what a stored head is and needs, before any download
    brickyard swap models/mine seg hf://user/repo/seg
    """  # noqa: D301 - click reads the \b
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            hint = "It must be installed, or in a folder of PYTHONPATH."
            raise click.BadParameter(f"{error}. {hint}", param_hint="--import") from error


@main.command(name="list")
@click.argument("filter", default="*")
@click.option("--pretrained", is_flag=True, help="Only models with trained weights on this machine.")
@click.option("--task", "tasks", multiple=True, help="Only models with this task; may be given several times.")
def list_command(filter: str, pretrained: bool, tasks: Sequence[str]) -> None:
    """List the names of models that match FILTER, such as "resnet*_cls"."""
    for name in brickyard.list_models(filter, pretrained=pretrained, tasks=tasks):
        click.echo(name)


@main.command()
@click.argument("name")
def info(name: str) -> None:
    """Show the facts about the model NAME."""
    facts = brickyard.model_info(name)
    images = facts.spec.input
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("model", facts.name)
    table.add_row("backbone", f"{facts.backbone}, strides {list(facts.spec.features.strides)}")
    for head, task in facts.tasks.items():
        table.add_row("head", f"{head}: task {task}, {facts.num_classes[head]} classes")
    fixed = "fixed size" if images.fixed else "any size"
    table.add_row("image", f"{images.channels}x{images.size[0]}x{images.size[1]}, {fixed}, {images.interpolation}")
    for path, count in facts.parameters.items():
        licence = f", {facts.licence[path]}" if path in facts.licence else ""
        table.add_row("brick", f"{path}: {count:,} parameters{licence}")
    for metric, value in facts.metrics.items():
        table.add_row("metric", f"{metric}: {value:.4g}")
    timm = f"timm's for the backbone: {', '.join(facts.backbone_weights) or 'none'}"
    table.add_row("weights", str(facts.weights) if facts.weights else timm)
    Console().print(table, highlight=False)


@main.command()
@click.argument("name")
def graph(name: str) -> None:
    """Print the graph of the model NAME as mermaid text."""
    click.echo(brickyard.create_mermaid_dag_graph(brickyard.create_model(locate(name))))


for command in (hub.pull, hub.push, hub.swap, hub.inspect, hub.lock, hub.verify, export.export, export.quantize):
    main.add_command(command)
main.add_command(predict.predict)
main.add_command(train.train)
main.add_command(train.evaluate)
