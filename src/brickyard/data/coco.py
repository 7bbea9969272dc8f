"""Any folder in COCO's form: which objects are there, their pixels and their boxes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch.utils.data import Dataset

from brickyard.data.objects import box_target, object_labels, presence, rasterize
from brickyard.data.orientation import read_oriented
from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

_KEYS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}
_KINDS = {"id": int, "file_name": str, "image_id": int, "category_id": int, "name": str}
_KINDS_TOLD = "objects with {} as numbers and texts"
_LAYOUTS = "annotations/instances_<split>.json beside <split>/ or images/<split>/, or <split>/_annotations.coco.json"


@final
class Coco(Dataset[dict[str, Any]]):
    """A folder in COCO's form, with labels for `cls` (multi-label), `det` and, where objects have shapes, `seg`.

    Two layouts are known: COCO's own, `annotations/instances_<split>.json` beside `<split>/` or `images/<split>/`, and
    Roboflow's, `<split>/_annotations.coco.json` among the pictures. Categories become classes 0, 1, ... in the order of
    the file, whatever their ids. A category without objects that stands above others is left out, since Roboflow adds
    one. A crowd counts in `cls`, is unknown in `seg` and has no box. Pictures are in the order of their ids.

    Args:
        folder: Where it lies.
        split: "train", "val", ...; "train" finds "train2017" too, and "val" finds "valid".

    Raises:
        BrickInputError: There is no such split, or its annotations are damaged.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.file, self.pictures = _files(Path(folder), split)
        content = _read(self.file)
        objects = content["annotations"]
        categories = _categories(content["categories"], {thing["category_id"] for thing in objects})
        self._numbers = {category["id"]: number for number, category in enumerate(categories)}
        self._has_masks = any(map(_has_shape, objects))
        names = [str(category["name"]) for category in categories]
        self.labels = object_labels(names, masks=self._has_masks, location=str(self.file))
        self._images = sorted(content["images"], key=lambda image: image["id"])
        self._objects = _by_image(objects, {image["id"] for image in self._images}, self._numbers, self.file)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one picture.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (K,) int64, 1 for each class that is there, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to K for classes, 255 for crowds. Absent where an object has
                no shape.
            targets/det: boxes (M, 4) float32, (x1, y1, x2, y2) in pixels, and labels (M,) int64, 0 to K - 1.

        Raises:
            BrickInputError: The picture is absent or damaged, or has another size than the annotations say; a shape or
                a box is damaged.
        """
        image = self._images[index]
        things = self._objects[image["id"]]
        location = f"{self.file}, '{image['file_name']}'"
        size = (image["height"], image["width"]) if "height" in image and "width" in image else None
        picture = read_oriented(self.pictures / image["file_name"], size)
        classes = [self._numbers[thing["category_id"]] for thing in things]
        item = {"image": picture.image, "targets/cls": presence(classes, len(self._numbers))}
        if self._has_masks and all(map(_has_shape, things)):
            values = [
                IGNORED if _is_crowd(thing) else number + 1 for thing, number in zip(things, classes, strict=True)
            ]
            shapes = zip((thing["segmentation"] for thing in things), values, strict=True)
            item["targets/seg"] = picture.mask(rasterize(shapes, picture.size, location))
        single = [(thing, number) for thing, number in zip(things, classes, strict=True) if not _is_crowd(thing)]
        boxes = picture.boxes(_corners((thing.get("bbox") for thing, _ in single), location))
        return {**item, "targets/det": box_target(boxes, [number for _, number in single])}


def _files(folder: Path, split: str) -> tuple[Path, Path]:
    """The annotations of a split, and the folder of its pictures."""
    for name in (split, "valid") if split == "val" else (split,):
        if (file := folder / name / "_annotations.coco.json").is_file():
            return file, file.parent
    annotations = folder / "annotations"
    # A year may follow: instances_train2017.json.
    found = [annotations / f"instances_{split}.json", *sorted(annotations.glob(f"instances_{split}[0-9]*.json"))]
    found = [file for file in found if file.is_file()]
    if not found:
        raise BrickInputError(
            str(folder), f"the split '{split}' in COCO's form", "no annotations", f"Known: {_LAYOUTS}."
        )
    if len(found) > 1 and found[0].stem != f"instances_{split}":
        names = ", ".join(file.stem.removeprefix("instances_") for file in found)
        raise BrickInputError(str(folder), f"one split '{split}'", names, "Name one of them.")
    name = found[0].stem.removeprefix("instances_")
    prefixes = [folder / name, folder / "images" / name]
    for place in prefixes:
        if place.is_dir():
            return found[0], place
    raise BrickInputError(str(folder), f"the pictures in {name}/ or images/{name}/", "no such folder")


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes())
        for kind, keys in _KEYS.items():
            for entry in content[kind]:
                if not (isinstance(entry, dict) and all(isinstance(entry.get(key), _KINDS[key]) for key in keys)):
                    raise ValueError(f"{kind}: expected {_KINDS_TOLD.format(keys)}, found {str(entry)[:200]}")
            if "id" in keys and len({entry["id"] for entry in content[kind]}) < len(content[kind]):
                raise ValueError(f"{kind}: an id stands there twice")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        raise BrickInputError(str(file), "images, annotations and categories as COCO has them", found) from None
    return content


def _categories(categories: list[dict[str, Any]], used: set[int]) -> list[dict[str, Any]]:
    above = [entry.get("supercategory") for entry in categories if entry.get("supercategory") != entry["name"]]
    return [entry for entry in categories if entry["name"] not in above or entry["id"] in used]


def _by_image(
    things: list[dict[str, Any]], images: set[int], numbers: Mapping[int, int], file: Path
) -> Mapping[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for thing in things:
        for kind, known in (("image_id", images), ("category_id", numbers)):
            if thing[kind] not in known:
                location = f"{file}, annotation {thing.get('id')}"
                raise BrickInputError(location, f"a known {kind}", f"{thing[kind]}")
        found[thing["image_id"]].append(thing)
    return found


def _has_shape(thing: Mapping[str, Any]) -> bool:
    shape = thing.get("segmentation")
    return any(shape) if isinstance(shape, list | dict) else bool(shape)  # none is written as nothing, [] or [[]]


def _is_crowd(thing: Mapping[str, Any]) -> bool:
    return bool(thing.get("iscrowd"))


def _corners(boxes: Iterable[Any], location: str) -> torch.Tensor:
    """COCO's boxes (x, y, width, height) -> (M, 4) float32, (x1, y1, x2, y2)."""
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
