"""The text that `brickyard train` prints: a table per validation, and a summary."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from brickyard.cli.output import echo_table, format_metric

if TYPE_CHECKING:
    from brickyard.training.progress import Validation

_MODEL = "all"  # the row of the metrics of the whole model


class TrainingReport:
    """Print the validations of a training and what to do with its result.

    Args:
        out: The folder of the run.
        data: The data set, as on the command line.
        image_size: (H, W) of the images in pixels.
        model: The folder of the trained model, None for the best one of the run.
    """

    def __init__(self, out: Path, data: str, image_size: tuple[int, int], model: Path | None = None) -> None:
        self.out, self.data, self.model = out, data, model or out / "best"
        self._images = f"images of {image_size[1]}x{image_size[0]} pixels"
        self._last: Validation | None = None

    def add(self, validation: Validation) -> None:
        """Print a table of a validation: one row per head, without the metrics of single classes."""
        self._last = validation
        is_best = validation.best_step == validation.step
        speed = f"{validation.images_per_second:.3g} images/s, {self._images}"
        best = f", best {validation.monitor} so far" if is_best else ""
        rows = []
        for head, values in _by_head(validation.metrics).items():
            loss = format_metric(values.pop("loss")) if "loss" in values else ""
            rows.append((head, loss, "  ".join(f"{name} {format_metric(value)}" for name, value in values.items())))
        title = f"step {validation.step} of {validation.total_steps}{best}; {speed}"
        echo_table(["head", "loss", "metrics"], rows, title=title)

    def end(self) -> None:
        """Print the best step and the commands that come next."""
        last, model = self._last, quote(str(self.model))
        if last is None:
            rest = "; nothing has changed" if self.model == self.out / "best" else ""
            click.echo(f"The training in {self.out} was finished before{rest}.")
        elif last.best_step is None or last.best_score is None:
            click.echo(f"{last.monitor} was never a number: {model} is the last model.")
        else:
            score = format_metric(last.best_score)
            is_early = last.step < last.total_steps
            done = f"Stopped early after {last.step} of" if is_early else "Finished"
            click.echo(f"{done} {last.total_steps} steps. Best: step {last.best_step}, {last.monitor} {score}.")
        click.echo(f"  brickyard eval {model} --data {quote(self.data)}")
        click.echo(f"  brickyard predict IMAGES --model {model}")
        click.echo(f"  brickyard export {model} FILE.onnx")


def _by_head(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Group metrics `validation/<head>/<name>` by head, those of the whole model first; without single classes."""
    grouped: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in metrics.items():
        head, _, metric = name.partition("/")[2].rpartition("/")
        if "/" not in head:
            grouped[head or _MODEL][metric] = value
    return dict(sorted(grouped.items(), key=lambda item: item[0] != _MODEL))
