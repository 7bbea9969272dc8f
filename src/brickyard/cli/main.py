"""The command line: `brickyard --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from huggingface_hub.errors import HfUriError, HFValidationError, RevisionResolutionError

import brickyard  # torch is loaded when a name is first used, so that --help is fast
from brickyard.cli import export, hub, predict, train
from brickyard.cli.models import locate
from brickyard.cli.output import echo_rows, error_text
from brickyard.errors import BrickError


class _Commands(click.Group):
    """A group of commands that print the text of expected errors instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrickError, OSError, HFValidationError, HfUriError, RevisionResolutionError) as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "") or self
            raise click.ClickException(error_text(error, command)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(brickyard.__version__)
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Module to import that registers custom tasks or parts; repeatable.",
)
def main(modules: Sequence[str]) -> None:
    """A zoo of multi-task vision models made of bricks.

    \b
    brickyard predict photo.jpg                run a model on an image
    brickyard list "resnet*_cls_seg"           find models
    brickyard inspect hf://user/repo/seg       show what a stored head is and requires, without its weights
    brickyard swap models/mine seg hf://user/repo/seg      replace a head
    """  # noqa: D301 - click reads the \b
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script has its own folder there
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            hint = "It must be installed, in the working directory, or in a folder on PYTHONPATH."
            raise click.BadParameter(f"{error}. {hint}", param_hint="--import") from error


@main.command(name="list")
@click.argument("filter", default="*")
@click.option("--pretrained", is_flag=True, help="Only models with trained weights on this machine.")
@click.option("--task", "tasks", multiple=True, help="Only models with this task; repeatable.")
def list_command(filter: str, pretrained: bool, tasks: Sequence[str]) -> None:
    """List the names of models that match FILTER, such as "resnet*_cls"."""
    for name in brickyard.list_models(filter, pretrained=pretrained, tasks=tasks):
        click.echo(name)


@main.command()
@click.argument("name")
def info(name: str) -> None:
    """Show the architecture, parameters and metrics of the model NAME."""
    model = brickyard.model_info(name)
    images = model.spec.input
    rows = [("model", model.name)]
    rows.append(("backbone", f"{model.backbone}, strides {list(model.spec.features.strides)}"))
    rows += [("head", f"{head}: task {task}, {model.num_classes[head]} classes") for head, task in model.tasks.items()]
    fixed = "fixed size" if images.fixed else "any size"
    rows.append(("image", f"{images.channels}x{images.size[0]}x{images.size[1]}, {fixed}, {images.interpolation}"))
    for path, count in model.parameters.items():
        licence = f", {model.licence[path]}" if path in model.licence else ""
        rows.append(("brick", f"{path}: {count:,} parameters{licence}"))
    rows += [("metric", f"{metric}: {value:.4g}") for metric, value in model.metrics.items()]
    timm = f"timm weights of the backbone: {', '.join(model.backbone_weights) or 'none'}"
    rows.append(("weights", str(model.weights) if model.weights else timm))
    echo_rows(rows)


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
