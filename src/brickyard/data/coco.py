"""Data sets in COCO's format: classes, pixels, boxes and key points of objects."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch.utils.data import Dataset

from brickyard.core.specs import KeypointSpec
from brickyard.data.dataset import split_names
from brickyard.data.key_points import (
    KEYPOINT_KINDS,
    Points,
    check_key_points,
    flip_pairs_of,
    key_point_target,
    single_object,
)
from brickyard.data.label_kinds import LabelKind, check_pixels
from brickyard.data.objects import (
    OBJECT_KINDS,
    bounds,
    box_target,
    check_box,
    check_shape,
    count_small,
    instance_masks,
    object_labels,
    pixels_of,
    presence,
    rasterize,
)
from brickyard.data.orientation import OrientedImage, check_header, read_oriented
from brickyard.data.reading import damage_as_input_error
from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

_log = logging.getLogger(__name__)
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
        points: Its key points, None if it has none.
        location: The location that errors name.
    """

    class_index: int
    box: tuple[float, float, float, float]
    shape: Any
    is_crowd: bool
    points: Points | None
    location: str


@final
class Coco(Dataset[dict[str, Any]]):
    """A data set in COCO's format, with labels for `cls` (multi-label), `det`, `fomo` and, where objects have shapes,
    `seg` and `inst`; where they have key points, `pose` and `kpt`.

    See `layout` for the files. Categories become classes 0, 1, ... in the order of the file, whatever their ids. A
    category that is a supercategory of others and has no objects in any split is left out, since Roboflow adds one. A
    crowd counts in `cls` and is ignored in all others. An object without a box gets the one around its shape. An image
    with an object without a shape has no label for `seg` and `inst`; a logged warning counts them. Images are ordered
    by id.

    Key points are those that the categories declare; all categories that have some have the same. COCO's coordinates
    are indices of pixels, so 0.5 is added, as in Detectron2. For `kpt`, only images with a single object with known key
    points are labelled. What a flip exchanges follows from names such as "left_eye" and "right_eye".

    Args:
        folder: The root folder.
        split: "train", "val", ...; "train" matches "train2017" too, and "val" matches "valid" and "validation".
        prefixes: The beginning of the names of annotation files, the first that exists is taken.

    Attributes:
        keypoints: The key points of `pose` and `kpt`.

    Raises:
        BrickInputError: The split does not exist, or its annotations are damaged.
    """

    layout: ClassVar[str] = (
        "annotations/instances_<split>.json (or person_keypoints_<split>.json) with the images in <split>/ or "
        "images/<split>/, or as Roboflow writes it <split>/_annotations.coco.json with the images in the same folder"
    )

    def __init__(
        self, folder: str | Path, split: str, *, prefixes: Sequence[str] = ("instances", "person_keypoints")
    ) -> None:
        self.file, self.image_folder = _files(Path(folder), split, prefixes)
        content = _read(self.file)
        annotations = content["annotations"]
        categories = _categories(content, Path(folder), self.file, prefixes)
        self._class_of = {category["id"]: index for index, category in enumerate(categories)}
        self._has_masks = any(map(_has_shape, annotations))
        names = [str(category["name"]) for category in categories]
        labels = object_labels(names, masks=self._has_masks, location=str(self.file), instances=self._has_masks)
        self._points = _key_points_of(categories, self.file)
        self.keypoints = {} if self._points is None else dict.fromkeys(KEYPOINT_KINDS, self._points)
        self.labels = labels if self._points is None else {**labels, "pose": labels["det"], "kpt": self._points.names}
        kinds: dict[str, LabelKind] = {**OBJECT_KINDS, **KEYPOINT_KINDS}
        self.kinds = {name: kinds[name] for name in self.labels}
        self._images = sorted(content["images"], key=lambda image: image["id"])
        self._annotations = _by_image(annotations, {image["id"] for image in self._images}, self.file)
        if self._has_masks:
            self._report_shapeless()

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
            targets/fomo: The same as for `det`.
            targets/inst: As for `det`, and masks (M, H, W) uint8. Absent where an object has no shape.
            targets/pose: As for `inst`, or `det` if that is absent, and keypoints (M, P, 3) float32, zeros for an
                object without.
            targets/kpt: (P, 3) float32, of the only object with known key points; else absent.

        Raises:
            BrickInputError: The image is absent or damaged, or has another size than annotated; a shape, a box or a key
                point is damaged.
        """
        entry = self._images[index]
        oriented = read_oriented(self.image_folder / entry["file_name"], _size_of(entry))
        objects = self._objects(entry, oriented.size)
        classes, ignored = [each.class_index for each in objects], [each.is_crowd for each in objects]
        corners = torch.tensor([each.box for each in objects], dtype=torch.float32).reshape(-1, 4)
        sample: dict[str, Any] = {"image": oriented.image, "targets/cls": presence(classes, len(self._class_of))}
        if self._has_masks and all(each.shape is not None for each in objects):
            pixels = [pixels_of(each.shape, oriented.size, each.location) for each in objects]
            values = [IGNORED if each.is_crowd else each.class_index + 1 for each in objects]
            sample["targets/seg"] = oriented.mask(rasterize(zip(pixels, values, strict=True), oriented.size))
            instances = {"boxes": corners, "masks": instance_masks(pixels, oriented.size)}
            moved = oriented.label(LabelKind.INSTANCE_MASKS, instances)
            sample["targets/inst"] = box_target(moved["boxes"], classes, ignored, masks=moved["masks"])
        target = box_target(oriented.boxes(corners), classes, ignored)
        sample |= {"targets/det": target, "targets/fomo": dict(target)}
        if self._points is not None:
            sample |= self._pose(objects, corners, oriented, self._points)
            if "targets/inst" in sample:
                sample["targets/pose"]["masks"] = sample["targets/inst"]["masks"]
        return sample

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        entry = self._images[index]
        size = check_header(self.image_folder / entry["file_name"], _size_of(entry))
        return count_small((each.box for each in self._objects(entry, size)), size)

    def _pose(
        self, objects: Sequence[_Object], corners: torch.Tensor, oriented: OrientedImage, spec: KeypointSpec
    ) -> dict[str, Any]:
        """Return the labels for `pose` and, where one object has key points, `kpt`."""
        points = [each.points for each in objects]
        target = {"boxes": corners, "keypoints": key_point_target(points, spec, oriented.size)}
        moved = oriented.label(LabelKind.INSTANCE_POINTS, target)
        classes, ignored = [each.class_index for each in objects], [each.is_crowd for each in objects]
        pose = box_target(moved["boxes"], classes, ignored, keypoints=moved["keypoints"])
        single = single_object(points)
        return {"targets/pose": pose, **({} if single is None else {"targets/kpt": moved["keypoints"][single]})}

    def _objects(self, entry: Mapping[str, Any], size: tuple[int, int]) -> list[_Object]:
        """Return the checked objects of an image."""
        image = f"{self.file}, '{entry['file_name']}'"
        objects = [
            self._object(annotation, size, f"{image}, annotation {annotation.get('id')}")
            for annotation in self._annotations.get(entry["id"], ())
        ]
        check_pixels(torch.tensor([each.box for each in objects]), image)
        return objects

    def _object(self, annotation: Mapping[str, Any], size: tuple[int, int], location: str) -> _Object:
        shape = annotation["segmentation"] if _has_shape(annotation) else None
        if shape is not None:
            check_shape(shape, size, location)
        without_box = annotation.get("bbox") in (None, []) and shape is not None
        box = bounds(shape, size, location) if without_box else _corners(annotation.get("bbox"), location)
        check_box(box, size, location)
        class_index = self._class_of.get(annotation["category_id"])
        if class_index is None:
            raise BrickInputError(location, "a known category_id", f"{annotation['category_id']}")
        points = None if self._points is None else _points(annotation.get("keypoints"), self._points, location)
        if points is not None:
            check_key_points(points, size, location)
        return _Object(class_index, box, shape, bool(annotation.get("iscrowd")), points, location)

    def _report_shapeless(self) -> None:
        """Log how many images have no masks because an object has none."""
        shapeless = {
            image: each for image, found in self._annotations.items() for each in found if not _has_shape(each)
        }
        if shapeless:
            text = "%s: %d of %d images have no label for 'seg' and 'inst', since an object has no shape: annotation %s"
            first = ", ".join(str(each.get("id")) for each in [*shapeless.values()][:3])
            _log.warning(text, self.file, len(shapeless), len(self._images), first)


def _files(folder: Path, split: str, prefixes: Sequence[str]) -> tuple[Path, Path]:
    """Return the annotation file of a split and the folder of its images."""
    for name in split_names(split):
        if (file := folder / name / "_annotations.coco.json").is_file():
            return file, file.parent
    by_prefix = [(prefix, _annotation_files(folder / "annotations", prefix, split)) for prefix in prefixes]
    prefix, candidates = next((pair for pair in by_prefix if pair[1]), by_prefix[0])
    if not candidates:
        hint = f"Layout: {Coco.layout}."
        raise BrickInputError(str(folder), f"the split '{split}' in COCO's format", "no annotations", hint)
    if len(candidates) > 1 and candidates[0].stem != f"{prefix}_{split}":
        names = ", ".join(file.stem.removeprefix(f"{prefix}_") for file in candidates)
        raise BrickInputError(str(folder), f"one split '{split}'", names, "Pass one of these names.")
    name = candidates[0].stem.removeprefix(f"{prefix}_")
    for image_folder in (folder / name, folder / "images" / name):
        if image_folder.is_dir():
            return candidates[0], image_folder
    raise BrickInputError(str(folder), f"images in {name}/ or images/{name}/", "no such folder")


def _annotation_files(folder: Path, prefix: str, split: str) -> list[Path]:
    """Return the annotation files of a split; a year may follow its name: instances_train2017.json."""
    names = split_names(split)
    files = [[folder / f"{prefix}_{name}.json", *sorted(folder.glob(f"{prefix}_{name}[0-9]*.json"))] for name in names]
    return [file for found in files for file in found if file.is_file()]


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


def _categories(
    content: Mapping[str, list[dict[str, Any]]], folder: Path, file: Path, prefixes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the categories that are classes.

    Whether a supercategory has objects is decided over all splits: the classes of all splits must be the same.
    """
    categories = content["categories"]
    parents = {entry.get("supercategory") for entry in categories if entry.get("supercategory") != entry["name"]}
    used = {annotation["category_id"] for annotation in content["annotations"]}
    unused = {entry["name"] for entry in categories if entry["name"] in parents and entry["id"] not in used}
    patterns = ["*/_annotations.coco.json", *(f"annotations/{prefix}_*.json" for prefix in prefixes)]
    for other in (found for pattern in patterns for found in folder.glob(pattern)):
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


def _key_points_of(categories: Sequence[Mapping[str, Any]], file: Path) -> KeypointSpec | None:
    """Return the key points that the categories declare, None if they declare none."""
    declared = [entry for entry in categories if entry.get("keypoints")]
    if not declared:
        return None
    names, skeleton = declared[0]["keypoints"], declared[0].get("skeleton") or []
    location = f"{file}, category '{declared[0]['name']}'"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise BrickInputError(location, "keypoints: a list of names that differ", f"{str(names)[:200]}")
    if others := [entry for entry in declared if entry["keypoints"] != names]:
        found = f"other ones in '{others[0]['name']}'"
        raise BrickInputError(location, "the same key points in all categories that have some", found)
    pairs = [
        pair
        for pair in skeleton
        if isinstance(pair, list) and len(pair) == 2 and {*pair} <= {*range(1, len(names) + 1)}
    ]
    if len(pairs) < len(skeleton):
        raise BrickInputError(location, f"skeleton: pairs of 1 to {len(names)}", f"{str(skeleton)[:200]}")
    return KeypointSpec(tuple(names), flip_pairs_of(names), tuple((one - 1, other - 1) for one, other in pairs))


def _points(values: Any, spec: KeypointSpec, location: str) -> Points | None:
    """Return key points (P, 3) from COCO's [x, y, visibility, ...], with coordinates instead of indices of pixels."""
    if values in (None, []):
        return None
    count = len(spec.names)
    try:
        points = np.array(values, dtype=np.float32).reshape(count, 3)
    except (TypeError, ValueError, OverflowError):
        expected = f"keypoints: x, y and visibility of {count} points"
        found = f"{len(values)} values" if isinstance(values, list) else f"{str(values)[:100]}"
        raise BrickInputError(location, expected, found) from None
    points[:, :2] += 0.5
    return points


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
