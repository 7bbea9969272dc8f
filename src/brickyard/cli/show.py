"""`brickyard show`: look at the labels of a data set before training."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from brickyard.cli.output import echo_table
from brickyard.cli.train import ImageSize
from brickyard.core.csv_files import Cell, write_csv
from brickyard.core.specs import AUGMENTATIONS, RESIZE_MODES

if TYPE_CHECKING:
    from PIL import Image

    from brickyard.core.specs import Augmentation, ResizeMode
    from brickyard.data.dataset import LabelledDataset
    from brickyard.data.survey import Survey

_COUNT = click.IntRange(min=1)
_COLUMNS = 6  # images side by side in a contact sheet
_GENERATED = 500  # generated images that are counted by default
_MAX_ROWS = 100  # of a table that is printed; its file has all
_Tables = dict[str, tuple[list[str], list[list[Cell]]]]


@click.command()
@click.argument("data")
@click.option("--split", default="train", show_default=True, help="Split: train, val, test or another of the data.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the images and tables."
)
@click.option("--count", default=24, show_default=True, type=_COUNT, help="Number of images to draw.")
@click.option(
    "--length",
    type=_COUNT,
    help=f"Read the first images only, this many.  [default: all; {_GENERATED} of generated images]",
)
@click.option(
    "--augment",
    default="light",
    show_default=True,
    type=click.Choice(AUGMENTATIONS),
    help="Random changes of images of train, as for `brickyard train`; none draws them as they are.",
)
@click.option("--image-size", type=ImageSize(), help="Image side in pixels, or height x width.")
@click.option(
    "--resize-mode",
    type=click.Choice(RESIZE_MODES),
    default="squash",
    show_default=True,
    help="How images are resized; letterbox keeps the aspect ratio.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of all random choices.")
def show(
    data: str,
    split: str,
    out: Path,
    count: int,
    length: int | None,
    augment: Augmentation,
    image_size: tuple[int, int] | None,
    resize_mode: ResizeMode,
    seed: int,
) -> None:
    """Draw the labels of the data set DATA, count them, and list all problems, before a training.

    \b
    brickyard show digits --out look
    brickyard show coco:path/to/folder --split val --out look

    DATA is what `brickyard train --data` takes. Writes a contact sheet for each label, such as det.png, with images
    from the whole data set as a training gets them; the tables that are printed (labels.csv, classes.csv, points.csv,
    quantiles.csv); and problems.csv. Every image of the split is read; of one with several problems, the first is
    listed. The exit status is 1 if there are problems.
    """  # noqa: D301 - click reads the \b
    from brickyard.data.readers import is_generated, open_stored, transformed  # noqa: PLC0415 - they load torch
    from brickyard.data.survey import survey  # noqa: PLC0415

    length = length or (_GENERATED if is_generated(data) else None)
    stored = open_stored(data, split, length=length, image_size=image_size, seed=seed)
    found = survey(stored, data, length=length, progress=sys.stderr.isatty())
    out.mkdir(parents=True, exist_ok=True)
    tables = _tables(found)
    for name, (header, rows) in tables.items():
        write_csv(out / f"{name}.csv", header, rows)
    _echo_tables(tables, f"{data}, {split}: {len(found.good)} images")
    shown = stored
    if not is_generated(data):
        shown = transformed(stored, data, split, image_size=image_size, augment=augment, resize_mode=resize_mode)
    files = [*_write_sheets(out, shown, _spread(found.good, count), seed)]
    click.echo(f"Drawn: {', '.join(files) or 'nothing'}; all files are in {out}.")
    if found.num_small:
        click.echo(f"{found.num_small} objects have no box, because a side would be shorter than one pixel.")
    if found.problems:
        click.echo(f"{len(found.problems)} of {len(found.problems) + len(found.good)} images have problems:")
        for problem in found.problems.values():
            click.echo(f"  - {problem}")
        sys.exit(1)


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """Choose `count` indices at equal distances: data sets are often in the order of their classes."""
    count = min(count, len(indices))
    return [indices[number * len(indices) // count] for number in range(count)]


def _write_sheets(out: Path, data: LabelledDataset, indices: Sequence[int], seed: int) -> Iterator[str]:
    """Write a contact sheet for each label, labels that look the same in one, and yield the names of the files."""
    from brickyard.data.batches import Draw, SeededDataset  # noqa: PLC0415 - they load torch
    from brickyard.data.label_drawing import LabelDrawing, enlarged, image_of  # noqa: PLC0415
    from brickyard.parts.drawing.sheet import contact_sheet  # noqa: PLC0415

    if not indices:
        return
    seeded, drawing = SeededDataset(data, seed), LabelDrawing(data)
    samples = [enlarged(seeded[Draw(index, index)], data.kinds) for index in indices]
    sheets: dict[str, Image.Image] = {}
    for label in drawing.names:
        drawn = [drawing(sample, label) for sample in samples]
        if not any(drawn):
            continue
        tiles = [tile or image_of(sample) for tile, sample in zip(drawn, samples, strict=True)]
        captions = [f"image {index}{'' if tile else ': no label'}" for index, tile in zip(indices, drawn, strict=True)]
        sheets[label] = contact_sheet(tiles, captions, _COLUMNS)
    for names in _alike(sheets):
        file = f"{'_'.join(names).replace('/', '_')}.png"
        sheets[names[0]].save(out / file)
        yield file


def _alike(sheets: Mapping[str, Image.Image]) -> list[list[str]]:
    """Group the labels whose sheets are equal, such as `det` and `fomo` with the same boxes."""
    groups: list[list[str]] = []
    for label, sheet in sheets.items():
        same = next((names for names in groups if sheets[names[0]] == sheet), None)
        if same is None:
            groups.append([label])
        else:
            same.append(label)
    return groups


def _tables(found: Survey) -> _Tables:
    """Return the header and the rows of each table by name."""
    from brickyard.data.label_counts import QUANTILES, ClassCount, PointCount  # noqa: PLC0415 - it loads torch

    counts = found.counts
    classes: list[list[Cell]] = [
        [label, *astuple(each)] for label, of_label in counts.items() for each in of_label.class_counts()
    ]
    points: list[list[Cell]] = [
        [label, *astuple(each)] for label, of_label in counts.items() for each in of_label.point_counts()
    ]
    measured = [("", each) for each in found.image_sizes]
    measured += [(label, each) for label, of_label in counts.items() for each in of_label.quantiles()]
    return {
        "labels": (
            ["label", "kind", "images with it", "images without it"],
            [[label, each.kind.value, each.num_images, each.num_absent] for label, each in counts.items()],
        ),
        "classes": (["label", "class", *_names_of(ClassCount)[1:]], classes),
        "points": (["label", "point", *_names_of(PointCount)[1:]], points),
        "quantiles": (
            ["label", "quantity", "count", *QUANTILES],
            [[label, each.name, each.count, *each.values] for label, each in measured],
        ),
        "problems": (
            ["image", "location", "expected", "found", "hint"],
            [[index, *error.args] for index, error in found.problems.items()],
        ),
    }


def _names_of(row: type) -> list[str]:
    return [field.name for field in fields(row)]


def _echo_tables(tables: _Tables, title: str) -> None:
    """Print the tables; labels with the same rows, such as `det` and `fomo` with the same boxes, together."""
    header, rows = tables["labels"]
    echo_table(header, _texts(rows), title=title)
    for name in ("classes", "points", "quantiles"):
        header, rows = tables[name]
        by_label: dict[str, list[list[Cell]]] = {}
        for label, *cells in rows:
            by_label.setdefault(str(label), []).append(cells)
        together: dict[str, list[str]] = {}
        for label, cells_of in by_label.items():
            together.setdefault(repr(cells_of), []).append(label)
        for labels in together.values():
            _echo_columns(header[1:], by_label[labels[0]], ", ".join(filter(None, labels)) or "images")


def _echo_columns(header: Sequence[str], rows: list[list[Cell]], title: str) -> None:
    """Print the columns of a table that have values."""
    used = [index for index in range(len(header)) if any(row[index] is not None for row in rows)]
    echo_table(
        [header[index] for index in used],
        _texts([row[index] for index in used] for row in rows[:_MAX_ROWS]),
        title=title if len(rows) <= _MAX_ROWS else f"{title}: the first {_MAX_ROWS} of {len(rows)} rows",
    )


def _texts(rows: Iterable[Sequence[Cell]]) -> list[list[str]]:
    return [
        ["" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in rows
    ]
