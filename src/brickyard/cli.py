"""The command line: `brickyard --help`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from huggingface_hub.errors import HfUriError, HFValidationError, RevisionResolutionError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import brickyard  # its names load torch when they are used, so that --help is quick
from brickyard.commands import export, hub
from brickyard.errors import BrickError

if TYPE_CHECKING:
    from brickyard.predict import Prediction

DEFAULT_MODEL = "tf_efficientnet_lite0_cls.in1k"


class _Commands(click.Group):
    """Commands whose expected errors are one clear line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrickError, OSError, HFValidationError, HfUriError, RevisionResolutionError) as error:
            raise click.ClickException(" ".join(str(error).split())) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(brickyard.__version__)
def main() -> None:
    """A zoo of multi-task vision models made of bricks.

    \b
    brickyard predict photo.jpg                say what is on a picture
    brickyard list "resnet*_cls_seg"           find models
    brickyard inspect hf://user/repo/seg       what a stored head is and needs, before any download
    brickyard swap models/mine seg hf://user/repo/seg
    """  # noqa: D301 - click reads the \b


@main.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A model's name, or local-dir:FOLDER.")
@click.option(
    "--out", default="predictions", show_default=True, type=click.Path(path_type=Path), help="Folder for results."
)
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Pictures at a time.")
@click.option("--device", default=None, help="cpu, cuda, ...  [default: a GPU if there is one]")
def predict(pictures: tuple[Path, ...], model: str, out: Path, batch_size: int, device: str | None) -> None:
    """Say what is on PICTURES: files, or folders of them.

    Prints the most likely classes, writes an annotated picture for each file, and predictions.json with all of it. A
    picture that cannot be read is reported and does not stop the others; the exit code is then 1.
    """
    predictor = brickyard.Predictor(model, device=device, batch_size=batch_size)
    console = Console(soft_wrap=True)
    files = predictor.find(pictures)
    out.mkdir(parents=True, exist_ok=True)
    taken = {file.name.lower() for file in files if file.parent.resolve() == out.resolve()}
    rows = []
    failed = 0
    for prediction in predictor.predict(files, draw=True, progress=True):
        rows.append(prediction.to_json())
        if prediction.error is not None:
            failed += 1
            told = f"[red]not read:[/red] {escape(str(prediction.error))}"
            Console(stderr=True, soft_wrap=True).print(told, highlight=False)
            continue
        _print(console, prediction)
        if prediction.drawn is not None:
            prediction.drawn.save(out / _free_name(prediction.file.stem, taken))
    (out / "predictions.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"{len(rows) - failed} of {len(rows)} pictures; results in {escape(str(out))}", highlight=False)
    sys.exit(1 if failed else 0)


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
    click.echo(brickyard.create_mermaid_dag_graph(brickyard.create_model(name)))


for command in (hub.pull, hub.push, hub.swap, hub.inspect, hub.lock, hub.verify, export.export, export.quantize):
    main.add_command(command)


def _print(console: Console, prediction: Prediction) -> None:
    width, height = prediction.size
    console.print(f"\n[bold]{escape(str(prediction.file))}[/bold]  {width}x{height}", highlight=False)
    for results in prediction.results.values():
        table = Table(show_header=False, box=None)
        for result in results:
            share = next(value for value in result.values() if isinstance(value, float))
            table.add_row(f"{share:7.2%}", escape(result["label"]))
        console.print(table, highlight=False)


def _free_name(stem: str, taken: set[str]) -> str:
    """A file name that no other picture of this run has."""
    name, number = f"{stem}.png", 2
    while name.lower() in taken:
        name, number = f"{stem}_{number}.png", number + 1
    taken.add(name.lower())
    return name
