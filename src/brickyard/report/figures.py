"""Plots of a report, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.errors import MissingExtraError
from brickyard.parts.drawing.canvas import class_colors

_DPI = 120
_MAX_NUMBERS = 25  # classes up to which the cells of a confusion matrix have numbers
_MAX_NAMES = 100  # classes up to which its axes have names
_PER_COLUMN = 25  # entries in a column of a legend
_MAX_COLUMNS = 4
_MAX_CHARACTERS = 24  # of the name of a class at an axis
_MAX_CAPTION = 32  # characters of an entry of a legend
_STYLES = ("solid", "dashed", "dotted", "dashdot")  # in turn for every 8 classes, whose colours come close again


def check_plots() -> None:
    """Raise `MissingExtraError` if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("Plots of an evaluation", "train")


def plot_confusion(file: Path, matrix: npt.NDArray[Any], labels: Sequence[str], title: str) -> None:
    """Plot a confusion matrix, in percent of each row.

    Args:
        file: The PNG file.
        matrix: (K, K) counts; rows are labels, columns are predictions.
        labels: The K class names.
        title: A line above the plot.
    """
    count = len(labels)
    percent = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(3.0, 0.42 * count), 16.0)
    figure = _figure(side + 2.5, side + 1.5)
    axes = figure.add_subplot()
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("percent of the label")
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(_plain(title), fontsize=10)
    if count <= _MAX_NAMES:
        names, size = [_short(label) for label in labels], 9 if count <= 40 else 5
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    if count <= _MAX_NUMBERS:
        for row, column in np.argwhere(matrix > 0):
            value = percent[row, column]
            text, color = f"{value:.0f}" if value >= 0.5 else "<1", "white" if value > 55 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    figure.savefig(file, dpi=_DPI)


def plot_curves(file: Path, curves: Mapping[str, npt.NDArray[Any]], captions: Sequence[str], title: str) -> None:
    """Plot precision over recall for each class, in the colour that drawings have for it.

    Args:
        file: The PNG file.
        curves: (2, N) recalls and precisions by class, all classes in order; a class without a curve has N = 0.
        captions: The text in the legend for each class.
        title: A line above the plot.
    """
    shown = [index for index, curve in enumerate(curves.values()) if curve.size]
    columns = ceil(len(shown) / _PER_COLUMN)
    has_legend = 1 <= columns <= _MAX_COLUMNS
    figure = _figure(6 + (2.3 * columns if has_legend else 0), 5)
    axes = figure.add_subplot()
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(_plain(title), fontsize=10)
    axes.grid(alpha=0.3)
    colors, lines = class_colors([*curves]), []
    for index, (recall, precision) in enumerate(curves.values()):
        if index in shown:
            color = tuple(channel / 255 for channel in colors[index])
            lines += axes.plot(
                recall, precision, color=color, linestyle=_STYLES[index // 8 % len(_STYLES)], linewidth=1.5
            )
    if has_legend:
        texts = [_short(captions[index], _MAX_CAPTION) for index in shown]
        figure.legend(lines, texts, loc="outside right upper", ncols=columns, fontsize=8, frameon=False)
    figure.savefig(file, dpi=_DPI)


def _figure(width: float, height: float) -> Any:
    """Return a figure of a size in inches that is not in the state of pyplot, and needs no screen."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - of an extra

    return Figure(figsize=(width, height), layout="constrained")


def _short(text: str, length: int = _MAX_CHARACTERS) -> str:
    return _plain(text if len(text) <= length else f"{text[: length - 3]}...")


def _plain(text: str) -> str:
    """Return a text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
