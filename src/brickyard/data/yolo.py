"""Any folder in YOLO's form: which objects are there, their boxes and, where labels are polygons, their pixels."""

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
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its name everywhere

from brickyard.data.images import find_images, read_image
from brickyard.data.objects import box_target, object_labels, presence, rasterize
from brickyard.errors import BrickInputError

_SLACK = 0.01  # coordinates may leave the picture by this part of it, as rounding and careless tools have it


@final
@dataclass(frozen=True)
class _Object:
    """A line of a label file.

    Attributes:
        number: Its class.
        place: Centre, width and height (4,), or the points of a polygon (P, 2), (x, y); in parts of the picture.
    """

    number: int
    place: npt.NDArray[np.float32]

    @property
    def is_polygon(self) -> bool:
        return self.place.ndim == 2

    def corners(self) -> npt.NDArray[np.float32]:
        """(x1, y1, x2, y2), parts of the picture."""
        if self.is_polygon:
            return np.concatenate([self.place.min(axis=0), self.place.max(axis=0)])
        return np.concatenate([self.place[:2] - self.place[2:] / 2, self.place[:2] + self.place[2:] / 2])


@final
class Yolo(Dataset[dict[str, Any]]):
    """A folder in YOLO's form, with labels for `cls` (multi-label), `det` and, where labels are polygons, `seg`.

    `data.yaml` says the `names` of the classes and, by split, where the pictures are: a folder, several, or a text file
    that lists them. Where it does not say, they are in `images/<split>`. The labels of `images/a.jpg` are the lines of
    `labels/a.txt`: "class cx cy width height" or "class x1 y1 x2 y2 ...", in parts of the upright picture. A picture
    without that file has no objects.

    Args:
        folder: Where `data.yaml` lies.
        split: "train", "val" or "test".

    Raises:
        BrickInputError: There is no such split, or `data.yaml` or a label file is damaged.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        settings = _read_settings(Path(folder) / "data.yaml")
        names = _names(settings.get("names"), Path(folder) / "data.yaml")
        self._pictures = _find(Path(folder), settings, split)
        files = [_label_file(picture) for picture in self._pictures]
        if not any(file.is_file() for file in files):
            raise BrickInputError(str(files[0].parent), "label files of the pictures", "none")
        self._objects = [_read_labels(file, len(names)) for file in files]
        self._has_masks = any(thing.is_polygon for things in self._objects for thing in things)
        self._num_classes = len(names)
        self.labels = object_labels(names, masks=self._has_masks, location=str(folder))

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one picture.

        Returns:
            image: (3, H, W) uint8.
            targets/cls: (K,) int64, 1 for each class that is there, else 0.
            targets/seg: (H, W) int64, 0 for background, 1 to K for classes. Absent where an object has a box only.
            targets/det: boxes (M, 4) float32, (x1, y1, x2, y2) in pixels, and labels (M,) int64, 0 to K - 1.

        Raises:
            BrickInputError: The picture is absent or damaged.
        """
        file, things = self._pictures[index], self._objects[index]
        image = tv_tensors.Image(F.pil_to_tensor(read_image(file)))
        height, width = image.shape[-2:]
        numbers = [thing.number for thing in things]
        item = {"image": image, "targets/cls": presence(numbers, self._num_classes)}
        if self._has_masks and all(thing.is_polygon for thing in things):
            shapes = [([(thing.place * (width, height)).ravel().tolist()], thing.number + 1) for thing in things]
            item["targets/seg"] = tv_tensors.Mask(rasterize(shapes, (height, width), str(_label_file(file))))
        corners = np.array([thing.corners() for thing in things], dtype=np.float32).reshape(-1, 4)
        corners *= (width, height, width, height)
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners), format="XYXY", canvas_size=(height, width))
        return {**item, "targets/det": box_target(boxes, numbers)}


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BrickInputError(str(file), "settings in YAML", f"{error}") from None
    if not isinstance(content, dict):
        raise BrickInputError(str(file), "settings in YAML", type(content).__name__)
    return content


def _names(value: Any, file: Path) -> list[str]:
    """The class names, from a list or from {0: name, 1: name, ...}."""
    if isinstance(value, dict) and sorted(value, key=str) == sorted(range(len(value)), key=str):
        value = [value[number] for number in range(len(value))]
    if not isinstance(value, list) or not value:
        raise BrickInputError(str(file), "names: a list, or {0: name, 1: name, ...}", f"{value}")
    return [str(name) for name in value]


def _find(folder: Path, settings: dict[str, Any], split: str) -> list[Path]:
    """The pictures of a split."""
    prefixes = settings.get(split) or f"images/{split}"
    pictures: list[Path] = []
    for place in prefixes if isinstance(prefixes, list) else [prefixes]:
        # `path` is often that of another machine, and Roboflow writes '../train/images' for 'train/images'.
        nearby = str(place).removeprefix("../")
        found = [Path(folder, settings.get("path") or "", place), folder / place, folder / nearby]
        found = [candidate for candidate in found if candidate.exists()]
        if not found:
            raise BrickInputError(
                str(folder), f"the pictures of '{split}'", f"no '{place}'", "Does data.yaml say where?"
            )
        if found[0].is_dir():
            pictures += find_images([found[0]])
        else:
            lines = found[0].read_text(encoding="utf-8").split("\n")
            pictures += [found[0].parent / line.strip() for line in lines if line.strip()]
    return pictures


def _label_file(picture: Path) -> Path:
    """`.../images/train/a.jpg` -> `.../labels/train/a.txt`; only the last `images` changes."""
    parts = list(picture.with_suffix(".txt").parts)
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
    return [_object_of(line, f"{file}, line {at}", num_classes) for at, line in enumerate(lines, 1) if line.strip()]


def _object_of(line: str, location: str, num_classes: int) -> _Object:
    expected = "'class cx cy width height' or 'class x1 y1 x2 y2 x3 y3 ...'"
    try:
        number, *numbers = (float(word) for word in line.split())
    except ValueError:
        raise BrickInputError(location, expected, f"'{line}'") from None
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise BrickInputError(location, expected, f"{len(numbers) + 1} numbers")
    if number not in range(num_classes):
        raise BrickInputError(location, f"a class from 0 to {num_classes - 1}", f"{number:g}")
    place = np.array(numbers, dtype=np.float32)
    if not (place.min() >= -_SLACK and place.max() <= 1 + _SLACK):  # nan is refused too
        found = f"{place.min():g} to {place.max():g}"
        raise BrickInputError(location, "parts of the picture, 0 to 1", found, "Are they pixels?")
    return _Object(int(number), place.reshape(-1, 2) if len(numbers) > 4 else place)
