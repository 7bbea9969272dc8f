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
from brickyard.cli import add_head, export, find, hub, importers, page, predict, show, train
from brickyard.cli.models import locate
from brickyard.cli.output import echo_rows, echo_table, error_text, replace_unprintable
from brickyard.errors import BrickError

_MOST_NAMES = 50  # that `brickyard list` shows one by one


class _Commands(click.Group):
    """A group of commands that print the text of expected errors instead of a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        replace_unprintable()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `brickyard list | head`: click ends without a message
            raise
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
    brickyard show coco:FOLDER --out look      draw, count and check the labels of a data set
    brickyard inspect hf://user/repo/seg       show what a stored head is and requires, without its weights
    brickyard find models/mine --task seg      find heads that fit a model
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
@click.option("--pretrained", is_flag=True, help="Only models with trained weights, here or imported.")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Only models with this task; repeatable.")
@click.option("--names", "only_names", is_flag=True, help="All names, one per line, for scripts.")
def list_command(filter: str, pretrained: bool, tasks: Sequence[str], only_names: bool) -> None:
    """List the models that match FILTER, such as "resnet*_cls".

    Shows the trained models with their size and metrics, then the names of further models; of more than 50, the
    families of their backbones.
    """
    if only_names:
        for name in brickyard.list_models(filter, pretrained=pretrained, tasks=tasks):
            click.echo(name)
        return
    from brickyard.catalog import list_families, list_trained  # noqa: PLC0415 - it loads torch

    trained = list_trained(filter, tasks=tasks)
    rows = [
        (
            model.name,
            f"{model.size / 1e6:.1f} MB",
            ", ".join(f"{name} {value:.3g}" for name, value in model.metrics),
            model.source,
        )
        for model in trained
    ]
    if rows:
        echo_table(["trained model", "weights", "metrics", "imported from"], rows)
    if pretrained:
        return
    names = brickyard.list_models(filter, tasks=tasks)
    if len(names) > _MOST_NAMES:
        families = list_families(names)
        cells = [(family.name, str(family.backbones), str(family.pretrained), family.example) for family in families]
        echo_table(["family", "backbones", "with timm's weights", "for example"], cells)
        click.echo(
            f"{len(names)} names in {len(families)} families: pass a FILTER for one of them, or --names for all."
        )
    else:
        for name in names:
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
        licence = f", {model.licence[path]}" if model.licence.get(path) else ""
        frozen = ", frozen" if path in model.frozen else ""
        rows.append(("brick", f"{path}: {count:,} parameters{frozen}{licence}"))
    rows += [("loss", f"{head}: {formula}") for head, formula in model.losses.items()]
    rows += [("decoder", f"{head}: {settings}") for head, settings in model.decoders.items()]
    rows += [("metric", f"{metric}: {value:.4g}") for metric, value in model.metrics.items()]
    timm = f"timm weights of the backbone: {', '.join(model.backbone_weights) or 'none'}"
    rows.append(("weights", str(model.weights) if model.weights else timm))
    if unlicensed := [path for path, licence in model.licence.items() if licence is None]:
        rows.append(("warning", f"no licence is stated for the weights of {', '.join(unlicensed)}"))
    echo_rows(rows)


@main.command()
@click.argument("name")
def graph(name: str) -> None:
    """Print the graph of the model NAME as mermaid text."""
    click.echo(brickyard.create_mermaid_dag_graph(brickyard.create_model(locate(name))))


for command in (hub.pull, hub.push, hub.swap, hub.inspect, hub.lock, hub.verify, export.export, export.quantize):
    main.add_command(command)
main.add_command(find.find)
main.add_command(page.page)
main.add_command(importers.import_command)
main.add_command(predict.predict)
main.add_command(show.show)
main.add_command(train.train)
main.add_command(add_head.add_head)
main.add_command(train.evaluate)
