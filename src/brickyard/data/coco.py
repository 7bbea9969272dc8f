"""Data sets in COCO's format: classes, pixels and boxes of objects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch.utils.data import Dataset

from brickyard.data.objects import OBJECT_KINDS, box_target, object_labels, presence, rasterize
from brickyard.data.orientation import read_oriented
from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

_REQUIRED: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}
_LAYOUTS = "annotations/instances_<split>.json with <split>/ or images/<split>/, or <split>/_annotations.coco.json"


@final
class Coco(Dataset[dict[str, Any]]):
    """A data set in COCO's format, with labels for `cls` (multi-label), `det` and, where objects have shapes, `seg`.

    Two layouts are supported: COCO's, `annotations/instances_<split>.json` with `<split>/` or `images/<split>/`, and
    Roboflow's, `<split>/_annotations.coco.json` in the folder of the images. Categories become classes 0, 1, ... in the
    order of the file, whatever their ids. A category that is a supercategory of others and has no objects is left out,
    since Roboflow adds one. A crowd counts in `cls` and is ignored in `seg` and `det`. Images are ordered by id.

    Args:
        folder: The root folder.
        split: "train", "val", ...; "train" matches "train2017" too, and "val" matches "valid".

    Raises:
        BrickInputError: The split does not exist, or its annotations are damaged.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.file, self.image_folder = _files(Path(folder), split)
        content = _read(self.file)
        annotations = content["annotations"]
        categories = _categories(content["categories"], {annotation["category_id"] for annotation in annotations})
        self._class_of = {category["id"]: index for index, category in enumerate(categories)}
        self._has_masks = any(map(_has_shape, annotations))
        names = [str(category["name"]) for category in categories]
        self.labels = object_labels(names, masks=self._has_masks, location=str(self.file))
        self.kinds = {name: OBJECT_KINDS[name] for name in self.labels}
        self._images = sorted(content["images"], key=lambda image: image["id"])
        self._annotations = _by_image(annotations, {image["id"] for image in self._images}, self._class_of, self.file)

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
        annotations = self._annotations[entry["id"]]
        location = f"{self.file}, '{entry['file_name']}'"
        size = (entry["height"], entry["width"]) if "height" in entry and "width" in entry else None
        oriented = read_oriented(self.image_folder / entry["file_name"], size)
        classes = [self._class_of[annotation["category_id"]] for annotation in annotations]
        sample = {"image": oriented.image, "targets/cls": presence(classes, len(self._class_of))}
        if self._has_masks and all(map(_has_shape, annotations)):
            shapes = [
                (annotation["segmentation"], IGNORED if _is_crowd(annotation) else class_index + 1)
                for annotation, class_index in zip(annotations, classes, strict=True)
            ]
            sample["targets/seg"] = oriented.mask(rasterize(shapes, oriented.size, location))
        boxes = oriented.boxes(_corners((annotation.get("bbox") for annotation in annotations), location))
        return {**sample, "targets/det": box_target(boxes, classes, [_is_crowd(entry) for entry in annotations])}


def _files(folder: Path, split: str) -> tuple[Path, Path]:
    """Return the annotation file of a split and the folder of its images."""
    for name in (split, "valid") if split == "val" else (split,):
        if (file := folder / name / "_annotations.coco.json").is_file():
            return file, file.parent
    annotations = folder / "annotations"
    # A year may follow: instances_train2017.json.
    candidates = [annotations / f"instances_{split}.json", *sorted(annotations.glob(f"instances_{split}[0-9]*.json"))]
    candidates = [file for file in candidates if file.is_file()]
    if not candidates:
        hint = f"Supported layouts: {_LAYOUTS}."
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
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes())
        for section, types in _REQUIRED.items():
            for entry in content[section]:
                if not (isinstance(entry, dict) and all(isinstance(entry.get(key), typ) for key, typ in types.items())):
                    expected = ", ".join(f"'{key}' ({typ.__name__})" for key, typ in types.items())
                    raise ValueError(f"{section}: expected entries with {expected}, found {str(entry)[:200]}")
            if "id" in types and len({entry["id"] for entry in content[section]}) < len(content[section]):
                raise ValueError(f"{section}: duplicate ids")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise BrickInputError(str(file), "images, annotations and categories in COCO's format", cause) from None
    return content


def _categories(categories: list[dict[str, Any]], used: set[int]) -> list[dict[str, Any]]:
    parents = [entry.get("supercategory") for entry in categories if entry.get("supercategory") != entry["name"]]
    return [entry for entry in categories if entry["name"] not in parents or entry["id"] in used]


def _by_image(
    annotations: list[dict[str, Any]], images: set[int], classes: Mapping[int, int], file: Path
) -> Mapping[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        for key, known in (("image_id", images), ("category_id", classes)):
            if annotation[key] not in known:
                location = f"{file}, annotation {annotation.get('id')}"
                raise BrickInputError(location, f"a known {key}", f"{annotation[key]}")
        by_image[annotation["image_id"]].append(annotation)
    return by_image


def _has_shape(annotation: Mapping[str, Any]) -> bool:
    shape = annotation.get("segmentation")
    return any(shape) if isinstance(shape, list | dict) else bool(shape)  # "no shape" is None, [] or [[]]


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("iscrowd"))


def _corners(boxes: Iterable[Any], location: str) -> torch.Tensor:
    """Convert COCO's boxes (x, y, width, height) to xyxy, (M, 4) float32."""
    corners = []
    for box in boxes:
        try:
            left, top, width, height = (float(side) for side in box)
        except (TypeError, ValueError, OverflowError):
            raise BrickInputError(location, "boxes of four numbers", f"{box}") from None
        # Written so that nan is refused too.
        if not (abs(left) + abs(top) + width + height < float("inf") and width >= 0 and height >= 0):
            raise BrickInputError(location, "boxes (x, y, width, height) in pixels", f"{box}")
        corners.append((left, top, left + width, top + height))
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
