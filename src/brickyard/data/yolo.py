"""Data sets in YOLO's format: classes and boxes of objects and, where labels are polygons, their pixels."""

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

from brickyard.data.images import find_images, read_image
from brickyard.data.objects import (
    OBJECT_KINDS,
    box_target,
    check_shape,
    count_small,
    object_labels,
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
    """

    class_index: int
    outline: npt.NDArray[np.float32]

    @property
    def is_polygon(self) -> bool:
        return self.outline.ndim == 2

    def corners(self) -> npt.NDArray[np.float32]:
        """Return the box (x1, y1, x2, y2), relative to the image size."""
        if self.is_polygon:
            return np.concatenate([self.outline.min(axis=0), self.outline.max(axis=0)])
        return np.concatenate([self.outline[:2] - self.outline[2:] / 2, self.outline[:2] + self.outline[2:] / 2])


@final
class Yolo(Dataset[dict[str, Any]]):
    """A data set in YOLO's format, with labels for `cls` (multi-label), `det` and, where labels are polygons, `seg`.

    See `layout` for the files. The lines of a label file are "class cx cy width height" or "class x1 y1 x2 y2 ...",
    relative to the size of the upright image; where the settings have `kpt_shape`, they are "class cx cy width height"
    and the points, which are not read. An image without a label file, or with an empty one, has no objects. Images
    without a label file and label files without an image are counted in a logged warning.

    Args:
        folder: The folder with `data.yaml`, or the file with the settings.
        split: "train", "val" or "test".

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
        self._num_points = _num_points(settings.get("kpt_shape"), file)
        self._images = _find(file.parent, settings, split)
        files = [_label_file(image) for image in self._images]
        if not any(found.is_file() for found in files):
            raise BrickInputError(str(files[0].parent), "label files of the images", "none")
        _report_unmatched(self._images, files)
        self._objects = [self._read_labels(image) for image in self._images]
        read = [objects for objects in self._objects if not isinstance(objects, BrickInputError)]
        self._has_masks = any(entry.is_polygon for objects in read for entry in objects)
        self.labels = object_labels(names, masks=self._has_masks, location=str(folder))
        self.kinds = {name: OBJECT_KINDS[name] for name in self.labels}

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

        Raises:
            BrickInputError: The image is absent or damaged, or the label file is damaged or contradicts another one.
        """
        file, objects = self._images[index], self._checked(index)
        image = tv_tensors.Image(F.pil_to_tensor(read_image(file)))
        height, width = image.shape[-2:]
        classes = [entry.class_index for entry in objects]
        sample = {"image": image, "targets/cls": presence(classes, self._num_classes)}
        if self._has_masks and all(entry.is_polygon for entry in objects):
            location = str(_label_file(file))
            shapes = [
                ([(entry.outline * (width, height)).ravel().tolist()], entry.class_index + 1, location)
                for entry in objects
            ]
            sample["targets/seg"] = tv_tensors.Mask(rasterize(shapes, (height, width)))
        corners = np.array([entry.corners() for entry in objects], dtype=np.float32).reshape(-1, 4)
        corners *= (width, height, width, height)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners), format="XYXY", canvas_size=(height, width))
        return {**sample, "targets/det": box_target(boxes, classes)}

    def check(self, index: int) -> int:
        """Check one sample without decoding its image, see `CheckableDataset`; raises what reading it would raise."""
        height, width = check_header(self._images[index])
        objects = self._checked(index)
        for entry in objects:
            if entry.is_polygon:
                outline = [(entry.outline * (width, height)).ravel().tolist()]
                check_shape(outline, (height, width), str(_label_file(self._images[index])))
        corners = (entry.corners() * (width, height, width, height) for entry in objects)
        return count_small((each.tolist() for each in corners), (height, width))

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
                _object_of(line, f"{file}, line {number}", self._num_classes, self._num_points)
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


def _num_points(value: Any, file: Path) -> int | None:
    """Return how many numbers the key points of an object are, from `kpt_shape`: [K, 2] or [K, 3]."""
    if value is None:
        return None
    try:
        count, dimensions = map(int, value)
    except (TypeError, ValueError):
        count, dimensions = 0, 0
    if count < 1 or dimensions not in (2, 3):
        raise BrickInputError(str(file), "kpt_shape: [number of key points, 2 or 3]", reprlib.repr(value))
    _log.warning("%s: key points (kpt_shape) are not read, only boxes and classes.", file)
    return count * dimensions


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


def _object_of(line: str, location: str, num_classes: int, num_points: int | None) -> _Object:
    expected = "'class cx cy width height' or 'class x1 y1 x2 y2 x3 y3 ...'"
    if num_points is not None:
        expected = f"'class cx cy width height' and {num_points} numbers of key points, as kpt_shape says"
    try:
        class_index, *numbers = (float(word) for word in line.split())
    except ValueError:
        raise BrickInputError(location, expected, f"'{line[:200]}'") from None
    if num_points is not None:
        if len(numbers) != 4 + num_points:
            raise BrickInputError(location, expected, f"{len(numbers) + 1} numbers")
        numbers = numbers[:4]
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise BrickInputError(location, expected, f"{len(numbers) + 1} numbers")
    if class_index not in range(num_classes):
        raise BrickInputError(location, f"a class from 0 to {num_classes - 1}", f"{class_index:g}")
    outline = np.array(numbers, dtype=np.float32)
    if not (outline.min() >= -_TOLERANCE and outline.max() <= 1 + _TOLERANCE):  # nan is refused too
        value_range = f"{outline.min():g} to {outline.max():g}"
        raise BrickInputError(location, "fractions of the image size, 0 to 1", value_range, "Are they pixels?")
    return _Object(int(class_index), outline.reshape(-1, 2) if len(numbers) > 4 else outline)
