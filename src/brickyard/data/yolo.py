"""Data sets in YOLO's format: classes and boxes of objects and, where labels are polygons, their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.data.images import find_images, read_image
from brickyard.data.objects import OBJECT_KINDS, box_target, object_labels, presence, rasterize
from brickyard.errors import BrickInputError

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

    `data.yaml` has the `names` of the classes and, by split, the location of the images: a folder, several folders, or
    a text file that lists the images; the default is `images/<split>`. The labels of `images/a.jpg` are the lines of
    `labels/a.txt`: "class cx cy width height" or "class x1 y1 x2 y2 ...", relative to the size of the upright image. An
    image without that file has no objects.

    Args:
        folder: The folder with `data.yaml`.
        split: "train", "val" or "test".

    Raises:
        BrickInputError: The split does not exist, or `data.yaml` or a label file is damaged.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        settings = _read_settings(Path(folder) / "data.yaml")
        names = _names(settings.get("names"), Path(folder) / "data.yaml")
        self._images = _find(Path(folder), settings, split)
        files = [_label_file(image) for image in self._images]
        if not any(file.is_file() for file in files):
            raise BrickInputError(str(files[0].parent), "label files of the images", "none")
        self._objects = [_read_labels(file, len(names)) for file in files]
        self._has_masks = any(entry.is_polygon for objects in self._objects for entry in objects)
        self._num_classes = len(names)
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
            targets/det: boxes (M, 4) float32, xyxy in pixels, and labels (M,) int64, 0 to K - 1.

        Raises:
            BrickInputError: The image is absent or damaged.
        """
        file, objects = self._images[index], self._objects[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(file)))
        height, width = image.shape[-2:]
        classes = [entry.class_index for entry in objects]
        sample = {"image": image, "targets/cls": presence(classes, self._num_classes)}
        if self._has_masks and all(entry.is_polygon for entry in objects):
            shapes = [
                ([(entry.outline * (width, height)).ravel().tolist()], entry.class_index + 1) for entry in objects
            ]
            sample["targets/seg"] = tv_tensors.Mask(rasterize(shapes, (height, width), str(_label_file(file))))
        corners = np.array([entry.corners() for entry in objects], dtype=np.float32).reshape(-1, 4)
        corners *= (width, height, width, height)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners), format="XYXY", canvas_size=(height, width))
        return {**sample, "targets/det": box_target(boxes, classes)}


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BrickInputError(str(file), "settings in YAML", f"{error}") from None
    if not isinstance(content, dict):
        raise BrickInputError(str(file), "settings in YAML", type(content).__name__)
    return content


def _names(value: Any, file: Path) -> list[str]:
    """Return the class names from a list or from {0: name, 1: name, ...}."""
    if isinstance(value, dict) and sorted(value, key=str) == sorted(range(len(value)), key=str):
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, list) or not value:
        raise BrickInputError(str(file), "names: a list, or {0: name, 1: name, ...}", f"{value}")
    return [str(name) for name in value]


def _find(folder: Path, settings: dict[str, Any], split: str) -> list[Path]:
    """List the images of a split."""
    sources = settings.get(split) or f"images/{split}"
    images: list[Path] = []
    for source in sources if isinstance(sources, list) else [sources]:
        # `path` is often that of another machine, and Roboflow writes '../train/images' for 'train/images'.
        candidates = [
            Path(folder, settings.get("path") or "", source),
            folder / source,
            folder / str(source).removeprefix("../"),
        ]
        existing = [candidate for candidate in candidates if candidate.exists()]
        if not existing:
            hint = f"Set '{split}' in data.yaml to the folder of its images."
            raise BrickInputError(str(folder), f"the images of '{split}'", f"no '{source}'", hint)
        if existing[0].is_dir():
            images += find_images([existing[0]])
        else:
            lines = existing[0].read_text(encoding="utf-8").split("\n")
            images += [existing[0].parent / line.strip() for line in lines if line.strip()]
    return images


def _label_file(image: Path) -> Path:
    """Return the label file of an image: `.../labels/train/a.txt` for `.../images/train/a.jpg`.

    Only the last `images` is replaced.
    """
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _read_labels(file: Path, num_classes: int) -> list[_Object]:
    if not file.exists():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BrickInputError(str(file), "labels as text", f"{error}") from None
    return [
        _object_of(line, f"{file}, line {number}", num_classes) for number, line in enumerate(lines, 1) if line.strip()
    ]


def _object_of(line: str, location: str, num_classes: int) -> _Object:
    expected = "'class cx cy width height' or 'class x1 y1 x2 y2 x3 y3 ...'"
    try:
        class_index, *numbers = (float(word) for word in line.split())
    except ValueError:
        raise BrickInputError(location, expected, f"'{line}'") from None
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise BrickInputError(location, expected, f"{len(numbers) + 1} numbers")
    if class_index not in range(num_classes):
        raise BrickInputError(location, f"a class from 0 to {num_classes - 1}", f"{class_index:g}")
    outline = np.array(numbers, dtype=np.float32)
    if not (outline.min() >= -_TOLERANCE and outline.max() <= 1 + _TOLERANCE):  # nan is refused too
        value_range = f"{outline.min():g} to {outline.max():g}"
        raise BrickInputError(location, "fractions of the image size, 0 to 1", value_range, "Are they pixels?")
    return _Object(int(class_index), outline.reshape(-1, 2) if len(numbers) > 4 else outline)
