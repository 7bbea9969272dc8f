"""The options `--data` and `--ratio`, and the data sets that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

import brickyard

if TYPE_CHECKING:
    from brickyard.data.dataset import LabelledDataset

_HELP = (
    "Data set: digits, digits-single, digits-text or digits-anomaly, which are generated, or coco:FOLDER, "
    "coco-keypoints:FOLDER, yolo:FOLDER, voc:FOLDER, imagefolder:FOLDER, pets:FOLDER, mvtec:FOLDER, ocr:FOLDER, "
    "depth:FOLDER or hf:FOLDER; help(brickyard.open_data) has the layouts."
)
data_option = click.option("--data", required=True, help=_HELP)
several_data_option = click.option(
    "--data",
    required=True,
    multiple=True,
    metavar="[HEAD=]DATA",
    help=f"{_HELP} Repeatable, for data sets with labels for different heads; HEAD=DATA gives its label for the head's "
    "task to one head only.",
)


class Ratio(click.ParamType[tuple[float, ...]]):
    """Positive numbers, "2:1", as a tuple."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            numbers = tuple(float(number) for number in str(value).split(":"))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < number < float("inf") for number in numbers):
            self.fail(f"expected a positive number for each --data, as in 2:1, found '{value}'", param, ctx)
        return numbers


def split_head(text: str) -> tuple[str | None, str]:
    """Split HEAD=DATA into the name of the head, None if there is none, and the data set."""
    head, equals, data = text.partition("=")
    return (head, data) if equals and ":" not in head else (None, text)


def open_for_heads(
    texts: Sequence[str], split: str, tasks: Mapping[str, str], *, ratio: Sequence[float] | None = None, **options: Any
) -> LabelledDataset:
    """Open one data set, or several as a `MixedData`.

    Args:
        texts: The values of `--data`.
        split: The split.
        tasks: The task of each head of the model.
        ratio: How many samples a training draws from each data set, see `MixedData`.
        **options: See `open_data`.

    Raises:
        click.BadParameter: The model has no such head, or there is a ratio of another length.
        The exceptions of `open_data`, `OneLabel` and `MixedData`.
    """
    if ratio is not None and len(ratio) != len(texts):
        raise click.BadParameter(f"expected {len(texts)} numbers, one for each --data", param_hint="--ratio")
    datasets = [_open(text, split, tasks, options) for text in texts]
    return datasets[0] if len(datasets) == 1 else brickyard.MixedData(datasets, ratio)


def _open(text: str, split: str, tasks: Mapping[str, str], options: Mapping[str, Any]) -> LabelledDataset:
    head, name = split_head(text)
    if head is not None and head not in tasks:
        known = ", ".join(tasks)
        raise click.BadParameter(f"unknown head '{head}': expected one of {known}", param_hint="--data")
    data = brickyard.open_data(name, split, **options)
    return data if head is None else brickyard.OneLabel(data, head if head in data.labels else tasks[head], head)
