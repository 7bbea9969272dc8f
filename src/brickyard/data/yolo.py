"""Data sets in YOLO's format: classes and boxes of objects, and their pixels or key points where labels have them."""

from __future__ import annotations

import logging
import reprlib  # aliases in YAML can make a few bytes a value of any size
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.core.specs import KeypointSpec
from brickyard.data.images import find_images, read_image
from brickyard.data.key_points import (
    KEYPOINT_KINDS,
    Points,
    check_key_points,
    flip_pairs_of,
    key_point_target,
    single_object,
)
from brickyard.data.label_kinds import LabelKind
from brickyard.data.objects import (
    OBJECT_KINDS,
    box_target,
    check_shape,
    count_small,
    instance_masks,
    object_labels,
    pixels_of,
    presence,
    rasterize,
)
from brickyard.data.orientation import check_header
from brickyard.data.text import read_lines, read_text
from brickyard.errors import BrickInputError

_log = logging.getLogger(__name__)
_NULLS = ("", "~", "null", "Null", "NULL")
_TOLERANCE = 0.01  # coordinates may exceed [0, 1] by this much, which rounding and some tools cause


@final
@dataclass(frozen=True)
class _Object:
    """An object, one line of a label file.

    Attributes:
        class_index: The index of its class.
        outline: Center, width and height (4,), or the points of a polygon (P, 2), (x, y), relative to the image size.
        points: Key points (K, 3), x and y relative to the image size and the visibility, None without.
        location: The file and line that errors name.
    """

    class_index: int
    outline: npt.NDArray[np.float32]
    points: Points | None
    location: str

    @property
    def is_polygon(self) -> bool:
        return self.outline.ndim == 2

    def corners(self) -> npt.NDArray[np.float32]:
        """Return the box (x1, y1, x2, y2), relative to the image size."""
        if self.is_polygon:
            return np.concatenate([self.outline.min(axis=0), self.outline.max(axis=0)])
        return np.concatenate([self.outline[:2] - self.outline[2:] / 2, self.outline[:2] + self.outline[2:] / 2])

    def polygon(self, size: tuple[int, int]) -> list[list[float]]:
        """Return the outline in pixels of an image of (height, width), as COCO's polygons."""
        return [(self.outline * (size[1], size[0])).ravel().tolist()]

    def key_points(self, size: tuple[int, int]) -> Points | None:
        """Return the checked key points (K, 3) in pixels of an image of (height, width)."""
        if self.points is None:
            return None
        points = self.points * np.array([size[1], size[0], 1], dtype=np.float32)
        check_key_points(points, size, self.location)
        return points


@final
class Yolo(Dataset[dict[str, Any]]):
    """A data set in YOLO's format, with labels for `cls` (multi-label), `det`, `fomo` and, where labels are polygons,
    `seg` and `inst`; where they have key points, `pose` and `kpt`.

    See `layout` for the files. The lines of a label file are "class cx cy width height" or "class x1 y1 x2 y2 ...",
    relative to the size of the upright image; where the settings have `kpt_shape`, they are "class cx cy width height"
    and the key points, as "x y visibility" or "x y", in which "0 0" is an unknown one. The settings `flip_idx` say
    which points a flip exchanges, `kpt_names` how they are named. For `kpt`, only images with a single object with
    known key points are labelled. An image without a label file, or with an empty one, has no objects. Images without a
    label file and label files without an image are counted in a logged warning.

    Args:
        folder: The folder with `data.yaml`, or the file with the settings.
        split: "train", "val" or "test".

    Attributes:
        keypoints: The key points of `pose` and `kpt`.

    Raises:
        BrickInputError: The split does not exist, or `data.yaml` or a list of images is damaged.
    """

    layout: ClassVar[str] = (
        "data.yaml (or the path of another file with these settings) with the `names` of the classes and, by split, "
        "the location of the images: a folder, several folders, or a text file that lists images; by default "
        "images/<split>/. The labels of images/<split>/a.jpg are in labels/<split>/a.txt, or in a.txt next to the image"
    )

    def __init__(self, folder: str | Path, split: str) -> None:
        file = Path(folder) if Path(folder).is_file() else Path(folder) / "data.yaml"
        settings = _read_settings(file)
        names = _names(settings.get("names"), file)
        self._num_classes = len(names)
        self._point_shape = _point_shape(settings.get("kpt_shape"), file)
        self._points = None if self._point_shape is None else _key_points_of(settings, self._point_shape[0], file)
        self.keypoints = {} if self._points is None else dict.fromkeys(KEYPOINT_KINDS, self._points)
        self._images = _find(file.parent, settings, split)
        files = [_label_file(image) for image in self._images]
        if not any(found.is_file() for found in files):
            raise BrickInputError(str(files[0].parent), "label files of the images", "none")
        _report_unmatched(self._images, files)
        self._objects = [self._read_labels(image) for image in self._images]
        read = [objects for objects in self._objects if not isinstance(objects, BrickInputError)]
        self._has_masks = any(entry.is_polygon for objects in read for entry in objects)
        labels = object_labels(names, masks=self._has_masks, location=str(folder), instances=self._has_masks)
        self.labels = labels if self._points is None else {**labels, "pose": labels["det"], "kpt": self._points.names}
        kinds: dict[str, LabelKind] = {**OBJECT_KINDS, **KEYPOINT_KINDS}
        self.kinds = {name: kinds[name] for name in self.labels}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one sample.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (K,) int64, 1 for each class that is present, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to K for classes. Absent where an object has a box only.
            targets/det: boxes (M, 4) float32, xyxy in pixels, labels (M,) int64, 0 to K - 1, and ignore (M,) bool,
                False.
            targets/fomo: The same as for `det`.
            targets/inst: As for `det`, and masks (M, H, W) uint8. Absent where an object has a box only.
            targets/pose: As for `inst`, or `det` if that is absent, and keypoints (M, P, 3) float32.
            targets/kpt: (P, 3) float32, of the only object with known key points; else absent.

        Raises:
            BrickInputError: The image is absent or damaged, or the label file is damaged or contradicts another one.
        """
        file, objects = self._images[index], self._checked(index)
        image = tv_tensors.Image(F.pil_to_tensor(read_image(file)))
        size = (int(image.shape[-2]), int(image.shape[-1]))
        height, width = size
        classes = [entry.class_index for entry in objects]
        corners = np.array([entry.corners() for entry in objects], dtype=np.float32).reshape(-1, 4)
        corners *= (width, height, width, height)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners), format="XYXY", canvas_size=size)
        target = box_target(boxes, classes)
        sample = {
            "image": image,
            "targets/cls": presence(classes, self._num_classes),
            "targets/det": target,
            "targets/fomo": dict(target),
        }
        if self._has_masks and all(entry.is_polygon for entry in objects):
            pixels = [pixels_of(entry.polygon(size), size, entry.location) for entry in objects]
            values = [class_index + 1 for class_index in classes]
            sample["targets/seg"] = tv_tensors.Mask(rasterize(zip(pixels, values, strict=True), size))
            sample["targets/inst"] = box_target(boxes, classes, masks=instance_masks(pixels, size))
        if self._points is not None:
            points = [entry.key_points(size) for entry in objects]
            keypoints = key_point_target(points, self._points, size)
            masks = {"masks": sample["targets/inst"]["masks"]} if "targets/inst" in sample else {}
            sample["targets/pose"] = {**box_target(boxes, classes, keypoints=keypoints), **masks}
            if (single := single_object(points)) is not None:
                sample["targets/kpt"] = keypoints[single]
        return sample

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        height, width = size = check_header(self._images[index])
        objects = self._checked(index)
        for entry in objects:
            if entry.is_polygon:
                check_shape(entry.polygon(size), size, entry.location)
            entry.key_points(size)
        corners = (entry.corners() * (width, height, width, height) for entry in objects)
        return count_small((each.tolist() for each in corners), size)

    def _checked(self, index: int) -> list[_Object]:
        objects = self._objects[index]
        if isinstance(objects, BrickInputError):
            raise objects
        return objects

    def _read_labels(self, image: Path) -> list[_Object] | BrickInputError:
        """Read the objects of an image, or return what is wrong with them, which is raised when they are used."""
        try:
            file = _label_file(image)
            if not file.exists():
                return []
            _check_single(file, image.with_suffix(".txt"))
            lines = read_text(file, "labels as text").splitlines()
            return [
                _object_of(line, f"{file}, line {number}", self._num_classes, self._point_shape)
                for number, line in enumerate(lines, 1)
                if line.strip()
            ]
        except BrickInputError as error:
            return error


def _read_settings(file: Path) -> dict[str, Any]:
    """Read settings in which every scalar is a text: YAML would turn the names `yes` and `no` into booleans."""
    try:
        content = yaml.load(read_text(file, "settings in YAML"), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise BrickInputError(str(file), "settings in YAML", f"{error}") from None
    if not isinstance(content, dict):
        raise BrickInputError(str(file), "settings in YAML", type(content).__name__)
    return {name: None if value in _NULLS else value for name, value in content.items()}


def _names(value: Any, file: Path) -> list[str]:
    """Return the class names from a list or from {0: name, 1: name, ...}."""
    if isinstance(value, dict) and value.keys() == set(map(str, range(len(value)))):
        value = [value[str(index)] for index in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise BrickInputError(str(file), "names: a list, or {0: name, 1: name, ...}", reprlib.repr(value))
    return value


def _point_shape(value: Any, file: Path) -> tuple[int, int] | None:
    """Return the number of key points of an object, and the numbers of each, from `kpt_shape`: [K, 2] or [K, 3]."""
    if value is None:
        return None
    try:
        count, dimensions = map(int, value)
    except (TypeError, ValueError):
        count, dimensions = 0, 0
    if count < 1 or dimensions not in (2, 3):
        raise BrickInputError(str(file), "kpt_shape: [number of key points, 2 or 3]", reprlib.repr(value))
    return count, dimensions


def _key_points_of(settings: dict[str, Any], count: int, file: Path) -> KeypointSpec:
    """Return the key points from `flip_idx`, the index of each point after a flip, and `kpt_names`, by class or not."""
    names, order = settings.get("kpt_names"), settings.get("flip_idx")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    if names is None:
        names = [str(index) for index in range(count)]
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise BrickInputError(str(file), f"kpt_names: {count} names", reprlib.repr(names))
    if order is None:
        return KeypointSpec(tuple(names), flip_pairs_of(names))
    try:
        flipped = [*map(int, order)]
    except (TypeError, ValueError):
        flipped = []
    if sorted(flipped) != [*range(count)] or any(flipped[flipped[index]] != index for index in range(count)):
        expected = f"flip_idx: the index of each of {count} key points after a flip, in which pairs are exchanged"
        raise BrickInputError(str(file), expected, reprlib.repr(order))
    return KeypointSpec(tuple(names), tuple((one, other) for one, other in enumerate(flipped) if one < other))


def _find(folder: Path, settings: dict[str, Any], split: str) -> list[Path]:
    """List the images of a split."""
    given, root = settings.get(split) or f"images/{split}", settings.get("path") or ""
    sources = given if isinstance(given, list) else [given]
    if not all(isinstance(text, str) for text in [*sources, root]):
        expected = f"'path' as a text, and '{split}' as a text or a list of texts"
        raise BrickInputError(str(folder), expected, f"{reprlib.repr(root)} and {reprlib.repr(given)}")
    images: list[Path] = []
    for source in sources:
        # `path` is often that of another machine, and Roboflow writes '../train/images' for 'train/images'.
        candidates = [
            Path(folder, root, source),
            folder / source,
            folder / source.removeprefix("../"),
        ]
        existing = [candidate for candidate in candidates if candidate.exists()]
        if not existing:
            hint = f"Set '{split}' in the settings to the folder of its images."
            raise BrickInputError(str(folder), f"the images of '{split}'", f"no '{source}'", hint)
        if existing[0].is_dir():
            images += find_images([existing[0]])
        else:
            listed = read_lines(existing[0], "a list of images")
            if not listed:
                raise BrickInputError(str(existing[0]), "a list of one image or more", "an empty file")
            images += [existing[0].parent / line for line in listed]
    return images


def _label_file(image: Path) -> Path:
    """Return the label file of an image: `.../labels/train/a.txt` for `.../images/train/a.jpg`, or the one next to it.

    Only the last `images` is replaced.
    """
    adjacent = image.with_suffix(".txt")
    parts = list(adjacent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    file = Path(*parts)
    return adjacent if adjacent.is_file() and not file.exists() else file


def _check_single(file: Path, adjacent: Path) -> None:
    """Raise `BrickInputError` where an image has two label files that differ."""
    if file == adjacent or not adjacent.is_file():
        return
    if read_text(file, "labels").split() != read_text(adjacent, "labels").split():
        hint = "Remove one of them."
        raise BrickInputError(
            str(file), "one label file for an image", f"another one with other labels, {adjacent}", hint
        )


def _report_unmatched(images: Sequence[Path], files: Sequence[Path]) -> None:
    """Log how many images have no label file, and how many label files have no image."""
    if missing := [image for image, file in zip(images, files, strict=True) if not file.exists()]:
        text = "%d of %d images have no label file, and are taken for images without objects: %s"
        _log.warning(text, len(missing), len(images), _first(missing))
    # Other splits may share a folder of labels: their images are in the same folders as those of this split.
    stems = {(folder, image.stem) for folder in {image.parent for image in images} for image in folder.iterdir()}
    folders = {file.parent: image.parent for image, file in zip(images, files, strict=True) if file.is_file()}
    orphans = [
        label
        for folder, image_folder in folders.items()
        for label in sorted(folder.glob("*.txt"))
        if folder != image_folder and (image_folder, label.stem) not in stems and label.stem != "classes"
    ]
    if orphans:
        _log.warning("%d label files have no image, and are left out: %s", len(orphans), _first(orphans))


def _first(files: Sequence[Path]) -> str:
    """Return the first three files as text."""
    return ", ".join(map(str, files[:3])) + (", ..." if len(files) > 3 else "")


def _object_of(line: str, location: str, num_classes: int, point_shape: tuple[int, int] | None) -> _Object:
    expected = "'class cx cy width height' or 'class x1 y1 x2 y2 x3 y3 ...'"
    num_points = 0 if point_shape is None else point_shape[0] * point_shape[1]
    if point_shape is not None:
        expected = f"'class cx cy width height' and {num_points} numbers of key points, as kpt_shape says"
    try:
        class_index, *numbers = (float(word) for word in line.split())
    except ValueError:
        raise BrickInputError(location, expected, f"'{line[:200]}'") from None
    points = None
    if point_shape is not None:
        if len(numbers) != 4 + num_points:
            raise BrickInputError(location, expected, f"{len(numbers) + 1} numbers")
        points = _points(numbers[4:], point_shape, location)
        numbers = numbers[:4]
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise BrickInputError(location, expected, f"{len(numbers) + 1} numbers")
    if class_index not in range(num_classes):
        raise BrickInputError(location, f"a class from 0 to {num_classes - 1}", f"{class_index:g}")
    outline = np.array(numbers, dtype=np.float32)
    _check_fractions(outline, location)
    return _Object(int(class_index), outline.reshape(-1, 2) if len(numbers) > 4 else outline, points, location)


def _points(numbers: Sequence[float], shape: tuple[int, int], location: str) -> Points:
    """Return key points (K, 3), x, y and visibility, from the numbers of a line; without visibility, 0 0 is unknown."""
    points = np.array(numbers, dtype=np.float32).reshape(shape)
    if shape[1] == 2:
        visibility = np.where((points == 0).all(axis=1, keepdims=True), 0, 2).astype(np.float32)
        points = np.concatenate([points, visibility], axis=1)
    _check_fractions(points[points[:, 2] != 0, :2], location)
    return points


def _check_fractions(values: npt.NDArray[np.float32], location: str) -> None:
    if values.size and not (values.min() >= -_TOLERANCE and values.max() <= 1 + _TOLERANCE):  # nan is refused too
        value_range = f"{values.min():g} to {values.max():g}"
        raise BrickInputError(location, "fractions of the image size, 0 to 1", value_range, "Are they pixels?")
