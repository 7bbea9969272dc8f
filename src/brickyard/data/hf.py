"""Data sets in the form of Hugging Face `datasets`, in a folder or on the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.data.dataset import split_names
from brickyard.data.hf_files import LAYOUT, HfTable, open_tables
from brickyard.data.images import IMAGE_HINT, check_size, read_image, upright_rgb
from brickyard.data.label_kinds import LabelKind, check_pixels
from brickyard.data.objects import box_target, check_box, count_small, presence
from brickyard.data.orientation import check_header
from brickyard.data.reading import damage_as_input_error
from brickyard.data.tables import Row
from brickyard.errors import BrickInputError

_LABELS, _TEXTS, _OBJECTS = ("label", "labels"), ("text",), ("objects",)
_CATEGORIES = ("category", "categories", "label", "labels")


@final
class HfDataset(Dataset[dict[str, Any]]):
    """A data set in the form of Hugging Face `datasets`: an `imagefolder` with metadata, or parquet files.

    See `layout` for the files; `datasets` itself is not needed. The columns that are labels:

    - label (or labels): an integer or a text, for `cls` and `emb`.
    - text: for `ocr`.
    - objects: `bbox`, (x, y, width, height) in pixels as in COCO, and `category` (or categories, label), for `det`,
      `fomo` and, without a column label, `cls` (multi-label). Boxes refer to the upright image.

    The classes are those that the parquet files name, else the values in order; an alphabet has the characters of the
    texts. Those of all splits count in a folder, those of this split in a data set on the Hub, of which the other
    splits are not downloaded. Encoded images stay in memory.

    Args:
        source: A folder, or `user/name` or `user/name/configuration` on the Hub, whose parquet files are downloaded.
        split: "train", "val" or "test"; "val" matches "valid" and "validation".

    Raises:
        BrickInputError: There is no such split, it has no labels, or a table is damaged.
        MissingExtraError: Parquet files need the extra `scale`.
        huggingface_hub's own errors for a data set on the Hub.
    """

    layout: ClassVar[str] = LAYOUT

    def __init__(self, source: str | Path, split: str) -> None:
        self._table = open_tables(Path(source), split)
        rows = [*self._table.rows, *_rows_of_other_splits(Path(source), split)]
        columns = {name for row in rows for name in row.values}
        self._label, self._text, self._objects = (
            next((name for name in names if name in columns), None) for names in (_LABELS, _TEXTS, _OBJECTS)
        )
        self.labels: dict[str, tuple[str, ...]] = {}
        self.kinds: dict[str, LabelKind] = {}
        self._add_label(rows)
        self._add_objects(rows)
        self._add_text(rows)
        if not self.labels:
            expected = f"a column {', '.join((*_LABELS, *_TEXTS, *_OBJECTS))}"
            raise BrickInputError(f"hf:{source}", expected, f"{sorted(columns)}")

    def __len__(self) -> int:
        return len(self._table.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: () int64, or (K,) int64 of 0 and 1 for each class that is present.
            targets/emb: () int64, the class.
            targets/ocr: The text.
            targets/det, targets/fomo: boxes (M, 4) float32, xyxy in pixels, labels (M,) int64, and ignore (M,) bool,
                False. Labels that a row does not have are absent.

        Raises:
            BrickInputError: The image or a label is damaged.
        """
        row, image = self._table.rows[index], self._table.images[index]
        pixels = tv_tensors.Image(F.pil_to_tensor(_read(image, row.location)))
        sample: dict[str, Any] = {"image": pixels}
        if (class_index := self._class_of(row)) is not None:
            sample |= {"targets/cls": torch.tensor(class_index), "targets/emb": torch.tensor(class_index)}
        if (text := self._text_of(row)) is not None:
            sample["targets/ocr"] = text
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        if (objects := self._objects_of(row, size)) is not None:
            corners = torch.tensor([box for box, _ in objects], dtype=torch.float32).reshape(-1, 4)
            classes = [number for _, number in objects]
            target = box_target(tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size), classes)
            sample |= {"targets/det": target, "targets/fomo": dict(target)}
            if self._label is None:
                sample["targets/cls"] = presence(classes, len(self.labels["det"]))
        return sample

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        row = self._table.rows[index]
        size = _check_header(self._table.images[index], row.location)
        self._class_of(row)
        self._text_of(row)
        objects = self._objects_of(row, size) or []
        return count_small((box for box, _ in objects), size)

    def _add_label(self, rows: Sequence[Row]) -> None:
        if self._label is not None:
            values = [row.values.get(self._label) for row in rows]
            self.labels |= {"cls": _names(self._table, self._label, values), "emb": ()}
            self.kinds |= {"cls": LabelKind.CLASS_INDEX, "emb": LabelKind.ID}

    def _add_objects(self, rows: Sequence[Row]) -> None:
        if self._objects is None:
            return
        values = [category for row in rows for _, category in _objects(row, self._objects)]
        names = _names(self._table, self._objects, values)
        self.labels |= {"det": names, "fomo": names, **({} if self._label else {"cls": names})}
        kinds = {"det": LabelKind.BOXES, "fomo": LabelKind.BOXES, "cls": LabelKind.MULTI_HOT}
        self.kinds |= {name: kind for name, kind in kinds.items() if name not in self.kinds}

    def _add_text(self, rows: Sequence[Row]) -> None:
        if self._text is not None:
            texts = [row.values.get(self._text) for row in rows]
            characters = {each for text in texts if isinstance(text, str) for each in text}
            if characters:
                self.labels["ocr"], self.kinds["ocr"] = tuple(sorted(characters)), LabelKind.TEXT

    def _class_of(self, row: Row) -> int | None:
        value = None if self._label is None else row.values.get(self._label)
        return None if value is None else _index_of(value, self.labels["cls"], row.location)

    def _text_of(self, row: Row) -> str | None:
        text = None if self._text is None else row.values.get(self._text)
        if text is not None and (not isinstance(text, str) or not text):
            raise BrickInputError(row.location, "a text", repr(text)[:100])
        return text

    def _objects_of(
        self, row: Row, size: tuple[int, int]
    ) -> list[tuple[tuple[float, float, float, float], int]] | None:
        """Return the checked boxes (x1, y1, x2, y2) and classes of a row, None if it has no label."""
        if self._objects is None or row.values.get(self._objects) is None:
            return None
        objects = []
        for values, category in _objects(row, self._objects):
            try:
                left, top, width, height = (float(side) for side in values)
            except (TypeError, ValueError):
                raise BrickInputError(row.location, "boxes of four numbers", f"{values}") from None
            box = (left, top, left + width, top + height)
            check_box(box, size, row.location)
            objects.append((box, _index_of(category, self.labels["det"], row.location)))
        check_pixels(torch.tensor([box for box, _ in objects]), row.location)
        return objects


def _rows_of_other_splits(source: Path, split: str) -> Iterator[Row]:
    """Yield the rows of the other splits in a folder; their faults are reported when they are opened."""
    for other in ("train", "val", "test"):
        if source.is_dir() and split not in split_names(other):
            with suppress(BrickInputError):
                yield from open_tables(source, other).rows


def _read(image: bytes | Path, location: str) -> Image.Image:
    if isinstance(image, Path):
        return read_image(image)
    with damage_as_input_error(location, "an image", IMAGE_HINT), Image.open(BytesIO(image)) as opened:
        return upright_rgb(opened, location)


def _check_header(image: bytes | Path, location: str) -> tuple[int, int]:
    """Check the header of an image, and return its (height, width)."""
    if isinstance(image, Path):
        return check_header(image)
    with damage_as_input_error(location, "an image", IMAGE_HINT), Image.open(BytesIO(image)) as opened:
        check_size(opened.size, location)
        return opened.height, opened.width


def _objects(row: Row, column: str) -> Iterator[tuple[Any, Any]]:
    """Yield box and category of each object of a row, of lists by entry or of a list of objects."""
    value = row.values.get(column)
    if value is None:
        return
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BrickInputError(row.location, f"{column}: bbox and category", f"{str(value)[:100]}")
    for entry in entries:
        name = next((name for name in _CATEGORIES if name in entry), None)
        if name is None or "bbox" not in entry:
            raise BrickInputError(row.location, f"{column}: bbox and category", f"{list(entry)}")
        boxes, categories = (
            (entry["bbox"], entry[name]) if isinstance(value, dict) else ([entry["bbox"]], [entry[name]])
        )
        if not (isinstance(boxes, list) and isinstance(categories, list) and len(boxes) == len(categories)):
            raise BrickInputError(row.location, f"{column}: a category for each bbox", f"{str(entry)[:100]}")
        yield from zip(boxes, categories, strict=True)


def _names(table: HfTable, column: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Return the classes of a column: the names that are described, else its values in order."""
    if names := _described(table.features.get(column)):
        return tuple(names)
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in known):
        return tuple(map(str, range(max(known) + 1)))
    return tuple(sorted({value for value in known if isinstance(value, str) and value.strip()}))


def _described(feature: Any) -> list[str] | None:
    """Find the names of a class label in the description of a column."""
    if isinstance(feature, list):
        return next((names for each in feature if (names := _described(each))), None)
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    return next((names for each in feature.values() if (names := _described(each))), None)


def _index_of(value: Any, names: tuple[str, ...], location: str) -> int:
    """Return the index of a class that is given by its index or its name."""
    if isinstance(value, str) and value in names:
        return names.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    raise BrickInputError(location, f"one of {len(names)} classes", repr(value)[:100])
