"""Data sets in COCO's format: classes, pixels and boxes of objects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch.utils.data import Dataset

from brickyard.data.dataset import split_names
from brickyard.data.label_kinds import check_pixels
from brickyard.data.objects import (
    OBJECT_KINDS,
    bounds,
    box_target,
    check_box,
    check_shape,
    count_small,
    object_labels,
    presence,
    rasterize,
)
from brickyard.data.orientation import check_header, read_oriented
from brickyard.data.reading import damage_as_input_error
from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

_REQUIRED: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}


@final
@dataclass(frozen=True)
class _Object:
    """An object, one annotation.

    Attributes:
        class_index: The index of its class.
        box: (x1, y1, x2, y2) in pixels.
        shape: Polygons or a run-length encoding, None if it has no shape.
        is_crowd: Whether it is a group of objects that were not annotated one by one.
        location: The location that errors name.
    """

    class_index: int
    box: tuple[float, float, float, float]
    shape: Any
    is_crowd: bool
    location: str


@final
class Coco(Dataset[dict[str, Any]]):
    """A data set in COCO's format, with labels for `cls` (multi-label), `det` and, where objects have shapes, `seg`.

    See `layout` for the files. Categories become classes 0, 1, ... in the order of the file, whatever their ids. A
    category that is a supercategory of others and has no objects in any split is left out, since Roboflow adds one. A
    crowd counts in `cls` and is ignored in `seg` and `det`. An object without a box gets the one around its shape.
    Images are ordered by id.

    Args:
        folder: The root folder.
        split: "train", "val", ...; "train" matches "train2017" too, and "val" matches "valid" and "validation".

    Raises:
        BrickInputError: The split does not exist, or its annotations are damaged.
    """

    layout: ClassVar[str] = (
        "annotations/instances_<split>.json with the images in <split>/ or images/<split>/, or as Roboflow writes it "
        "<split>/_annotations.coco.json with the images in the same folder"
    )

    def __init__(self, folder: str | Path, split: str) -> None:
        self.file, self.image_folder = _files(Path(folder), split)
        content = _read(self.file)
        annotations = content["annotations"]
        categories = _categories(content, Path(folder), self.file)
        self._class_of = {category["id"]: index for index, category in enumerate(categories)}
        self._has_masks = any(map(_has_shape, annotations))
        names = [str(category["name"]) for category in categories]
        self.labels = object_labels(names, masks=self._has_masks, location=str(self.file))
        self.kinds = {name: OBJECT_KINDS[name] for name in self.labels}
        self._images = sorted(content["images"], key=lambda image: image["id"])
        self._annotations = _by_image(annotations, {image["id"] for image in self._images}, self.file)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (K,) int64, 1 for each class that is present, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to K for classes, 255 for crowds. Absent where an object has
                no shape.
            targets/det: boxes (M, 4) float32, xyxy in pixels, labels (M,) int64, 0 to K - 1, and ignore (M,) bool, True
                for crowds.

        Raises:
            BrickInputError: The image is absent or damaged, or has another size than annotated; a shape or a box is
                damaged.
        """
        entry = self._images[index]
        oriented = read_oriented(self.image_folder / entry["file_name"], _size_of(entry))
        objects = self._objects(entry, oriented.size)
        classes = [each.class_index for each in objects]
        sample = {"image": oriented.image, "targets/cls": presence(classes, len(self._class_of))}
        if self._has_masks and all(each.shape is not None for each in objects):
            shapes = [
                (each.shape, IGNORED if each.is_crowd else each.class_index + 1, each.location) for each in objects
            ]
            sample["targets/seg"] = oriented.mask(rasterize(shapes, oriented.size))
        boxes = oriented.boxes(torch.tensor([each.box for each in objects], dtype=torch.float32).reshape(-1, 4))
        return {**sample, "targets/det": box_target(boxes, classes, [each.is_crowd for each in objects])}

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        entry = self._images[index]
        size = check_header(self.image_folder / entry["file_name"], _size_of(entry))
        return count_small((each.box for each in self._objects(entry, size)), size)

    def _objects(self, entry: Mapping[str, Any], size: tuple[int, int]) -> list[_Object]:
        """Return the checked objects of an image."""
        objects = []
        for annotation in self._annotations.get(entry["id"], ()):
            location = f"{self.file}, '{entry['file_name']}', annotation {annotation.get('id')}"
            shape = annotation["segmentation"] if _has_shape(annotation) else None
            if shape is not None:
                check_shape(shape, size, location)
            without_box = annotation.get("bbox") in (None, []) and shape is not None
            box = bounds(shape, size, location) if without_box else _corners(annotation.get("bbox"), location)
            check_box(box, size, location)
            class_index = self._class_of.get(annotation["category_id"])
            if class_index is None:
                raise BrickInputError(location, "a known category_id", f"{annotation['category_id']}")
            objects.append(_Object(class_index, box, shape, bool(annotation.get("iscrowd")), location))
        check_pixels(torch.tensor([each.box for each in objects]), f"{self.file}, '{entry['file_name']}'")
        return objects


def _files(folder: Path, split: str) -> tuple[Path, Path]:
    """Return the annotation file of a split and the folder of its images."""
    annotations = folder / "annotations"
    candidates: list[Path] = []
    for name in split_names(split):
        if (file := folder / name / "_annotations.coco.json").is_file():
            return file, file.parent
        # A year may follow: instances_train2017.json.
        candidates += [
            annotations / f"instances_{name}.json",
            *sorted(annotations.glob(f"instances_{name}[0-9]*.json")),
        ]
    candidates = [file for file in candidates if file.is_file()]
    if not candidates:
        hint = f"Layout: {Coco.layout}."
        raise BrickInputError(str(folder), f"the split '{split}' in COCO's format", "no annotations", hint)
    if len(candidates) > 1 and candidates[0].stem != f"instances_{split}":
        names = ", ".join(file.stem.removeprefix("instances_") for file in candidates)
        raise BrickInputError(str(folder), f"one split '{split}'", names, "Pass one of these names.")
    name = candidates[0].stem.removeprefix("instances_")
    for image_folder in (folder / name, folder / "images" / name):
        if image_folder.is_dir():
            return candidates[0], image_folder
    raise BrickInputError(str(folder), f"images in {name}/ or images/{name}/", "no such folder")


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    with damage_as_input_error(str(file), "images, annotations and categories in COCO's format", ""):
        content: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes())
        for section, types in _REQUIRED.items():
            for entry in content[section]:
                if not (isinstance(entry, dict) and all(isinstance(entry.get(key), typ) for key, typ in types.items())):
                    expected = ", ".join(f"'{key}' ({typ.__name__})" for key, typ in types.items())
                    raise ValueError(f"{section}: expected entries with {expected}, found {str(entry)[:200]}")
            if "id" in types and len({entry["id"] for entry in content[section]}) < len(content[section]):
                raise ValueError(f"{section}: duplicate ids")
    return content


def _categories(content: Mapping[str, list[dict[str, Any]]], folder: Path, file: Path) -> list[dict[str, Any]]:
    """Return the categories that are classes.

    Whether a supercategory has objects is decided over all splits: the classes of all splits must be the same.
    """
    categories = content["categories"]
    parents = {entry.get("supercategory") for entry in categories if entry.get("supercategory") != entry["name"]}
    used = {annotation["category_id"] for annotation in content["annotations"]}
    unused = {entry["name"] for entry in categories if entry["name"] in parents and entry["id"] not in used}
    for other in [*folder.glob("*/_annotations.coco.json"), *folder.glob("annotations/instances_*.json")]:
        if not unused:
            break
        if not other.samefile(file):
            unused -= _used_names(_read(other))
    return [entry for entry in categories if entry["name"] not in unused]


def _used_names(content: Mapping[str, list[dict[str, Any]]]) -> set[str]:
    used = {annotation["category_id"] for annotation in content["annotations"]}
    return {entry["name"] for entry in content["categories"] if entry["id"] in used}


def _by_image(annotations: list[dict[str, Any]], images: set[int], file: Path) -> Mapping[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    if unknown := [annotation for annotation in annotations if annotation["image_id"] not in images]:
        location = f"{file}, annotation {unknown[0].get('id')}"
        others = f", and {len(unknown) - 1} more like it" if len(unknown) > 1 else ""
        raise BrickInputError(location, "a known image_id", f"{unknown[0]['image_id']}{others}")
    return by_image


def _has_shape(annotation: Mapping[str, Any]) -> bool:
    shape = annotation.get("segmentation")
    return any(shape) if isinstance(shape, list | dict) else bool(shape)  # "no shape" is None, [] or [[]]


def _size_of(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the annotated (height, width) of an image, None if it is not annotated."""
    height, width = entry.get("height"), entry.get("width")
    if height is None or width is None:
        return None
    if not (isinstance(height, int | float) and isinstance(width, int | float)):
        raise BrickInputError(f"image '{entry['file_name']}'", "height and width as numbers", f"{[height, width]}")
    return height, width  # type: ignore[return-value] # 480.0 is equal to 480


def _corners(box: Any, location: str) -> tuple[float, float, float, float]:
    """Convert COCO's box (x, y, width, height) to xyxy."""
    try:
        left, top, width, height = (float(side) for side in box)
    except (TypeError, ValueError, OverflowError):
        raise BrickInputError(location, "a box of four numbers", f"{box}") from None
    if width < 0 or height < 0:
        raise BrickInputError(location, "a box (x, y, width, height) in pixels", f"{box}")
    return left, top, left + width, top + height
