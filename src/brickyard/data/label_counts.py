"""Count what the labels of a data set say: images, objects and pixels by class, known points, and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from brickyard.core.conversions import torch_to_numpy
from brickyard.data.label_kinds import LabelKind, visible_points
from brickyard.parts.segmentation import IGNORED

SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's objects are small below the first, and large from the second on
QUANTILES = {"minimum": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "maximum": 1.0}
_OBJECTS = (LabelKind.BOXES, LabelKind.INSTANCE_MASKS, LabelKind.INSTANCE_POINTS)
_UNKNOWN = "(unknown)"  # pixels without a class, and characters that are not in the alphabet


@final
@dataclass(frozen=True)
class ClassCount:
    """The count of one class of a label; None where its kind has no such count.

    Attributes:
        name: The class.
        images: The number of images with the class.
        objects: The number of its objects, or of its characters in texts.
        ignored: The objects that loss and metric ignore; they are not among `objects`.
        pixels: The number of its pixels.
        small, medium, large: The number of objects by the area of their boxes, see `SMALL` and `MEDIUM`.
    """

    name: str
    images: int
    objects: int | None = None
    ignored: int | None = None
    pixels: int | None = None
    small: int | None = None
    medium: int | None = None
    large: int | None = None


@final
@dataclass(frozen=True)
class PointCount:
    """The number of images, or of objects, in which a key point is known and unknown."""

    name: str
    known: int
    unknown: int


@final
@dataclass(frozen=True)
class Quantiles:
    """The distribution of a quantity: the number of its values, and those at each of `QUANTILES`, nan without any."""

    name: str
    count: int
    values: tuple[float, ...]


class LabelCounts:
    """The counts of one label over the images of a data set.

    Args:
        kind: The kind of the label.
        classes: The names of its classes; () for a label without.
        points: The names of its key points; () if they are numbered.
    """

    def __init__(self, kind: LabelKind, classes: Sequence[str] = (), points: Sequence[str] = ()) -> None:
        self.kind, self.points = kind, tuple(points)
        self.classes = (*classes, _UNKNOWN) if kind in (LabelKind.MASK, LabelKind.TEXT) else tuple(classes)
        self.num_images, self.num_absent = 0, 0
        count = len(self.classes)
        self._images, self._objects, self._ignored, self._pixels = (np.zeros(count, np.int64) for _ in range(4))
        self._areas = np.zeros((3, count), np.int64)
        self._points = np.zeros((2, len(self.points)), np.int64)
        self._values: dict[str, list[npt.NDArray[Any]]] = {}
        self._identities: dict[int, int] = {}
        self._has_masks = kind is LabelKind.INSTANCE_MASKS

    def add(self, label: Any, size: tuple[int, int]) -> None:
        """Count the label of an image of (height, width); None for an image without this label."""
        if label is None:
            self.num_absent += 1
            return
        self.num_images += 1
        if self.kind in _ADD:
            _ADD[self.kind](self, label, size)

    def class_counts(self) -> list[ClassCount]:
        """Return the count of each class; of unknown pixels or characters only if there are some."""
        has_objects = self.kind in (*_OBJECTS, LabelKind.TEXT)
        has_pixels = self._has_masks or self.kind is LabelKind.MASK
        counts = []
        for index, name in enumerate(self.classes):
            if name == _UNKNOWN and index == len(self.classes) - 1 and not self._images[index]:
                continue
            small, medium, large = (int(each) if self.kind in _OBJECTS else None for each in self._areas[:, index])
            counts.append(
                ClassCount(
                    name,
                    int(self._images[index]),
                    int(self._objects[index]) if has_objects else None,
                    int(self._ignored[index]) if self.kind in _OBJECTS else None,
                    int(self._pixels[index]) if has_pixels else None,
                    small,
                    medium,
                    large,
                )
            )
        return counts

    def point_counts(self) -> list[PointCount]:
        """Return the count of each key point."""
        return [
            PointCount(name, int(self._points[0, i]), int(self._points[1, i])) for i, name in enumerate(self.points)
        ]

    def quantiles(self) -> list[Quantiles]:
        """Return the distributions of the quantities that a label of this kind has."""
        values = {name: np.concatenate(parts) for name, parts in self._values.items()}
        if self._identities:
            values["images of an identity"] = np.array([*self._identities.values()])
        return [quantiles_of(name, each) for name, each in values.items()]

    def _measure(self, **values: npt.NDArray[Any]) -> None:
        for name, each in values.items():
            self._values.setdefault(name.replace("_", " "), []).append(each)

    def _add_class(self, label: Any, _size: tuple[int, int]) -> None:
        self._images[int(label)] += 1

    def _add_classes(self, label: Any, _size: tuple[int, int]) -> None:
        self._images += np.asarray(label) > 0

    def _add_identity(self, label: Any, _size: tuple[int, int]) -> None:
        self._identities[int(label)] = self._identities.get(int(label), 0) + 1

    def _add_mask(self, label: Any, _size: tuple[int, int]) -> None:
        classes = torch_to_numpy(torch.as_tensor(label))
        known = np.where(classes == IGNORED, len(self.classes) - 1, classes)
        pixels = np.bincount(known.ravel(), minlength=len(self.classes))
        self._pixels += pixels
        self._images += pixels > 0

    def _add_objects(self, label: Mapping[str, Any], size: tuple[int, int]) -> None:
        classes, boxes = (torch_to_numpy(torch.as_tensor(label[name])) for name in ("labels", "boxes"))
        ignored = torch_to_numpy(label["ignore"]) if "ignore" in label else np.zeros(len(classes), dtype=bool)
        self._ignored += self._per_class(classes[ignored])
        self._images[np.unique(classes)] += 1
        classes, boxes = classes[~ignored], boxes.astype(np.float64)[~ignored]
        self._objects += self._per_class(classes)
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = sides.prod(axis=1)
        large, medium = areas >= MEDIUM, (areas >= SMALL) & (areas < MEDIUM)
        self._areas += np.stack([self._per_class(classes[chosen]) for chosen in (areas < SMALL, medium, large)])
        self._measure(
            box_width_in_pixels=sides[:, 0],
            box_height_in_pixels=sides[:, 1],
            square_root_of_box_area_in_pixels=np.sqrt(areas),
            box_area_in_percent_of_image=100 * areas / (size[0] * size[1]),
            objects_per_image=np.array([len(classes)]),
        )
        if "masks" in label:
            self._has_masks = True
            pixels = torch_to_numpy(torch.as_tensor(label["masks"]))[~ignored].astype(bool).sum(axis=(1, 2))
            np.add.at(self._pixels, classes, pixels)
        if self.kind is LabelKind.INSTANCE_POINTS:
            self._add_points(torch.as_tensor(label["keypoints"])[torch.from_numpy(~ignored)], size)

    def _per_class(self, classes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.bincount(classes, minlength=len(self.classes))

    def _add_points(self, label: Any, _size: tuple[int, int]) -> None:
        points = torch.as_tensor(label)
        if not self.points:
            self.points = tuple(map(str, range(points.shape[-2])))
            self._points = np.zeros((2, len(self.points)), np.int64)
        known = torch_to_numpy(visible_points(points)).reshape(-1, points.shape[-2])
        self._points += np.stack([known.sum(axis=0), (~known).sum(axis=0)])

    def _add_text(self, text: str, _size: tuple[int, int]) -> None:
        indices = [self.classes.index(each) if each in self.classes[:-1] else len(self.classes) - 1 for each in text]
        counts = self._per_class(np.array(indices, dtype=np.int64))
        self._objects += counts
        self._images += counts > 0
        self._measure(characters_of_a_text=np.array([len(text)]))

    def _add_map(self, label: Any, _size: tuple[int, int]) -> None:
        values = torch_to_numpy(torch.as_tensor(label))
        known = values[np.isfinite(values) & (values > 0)]
        self._measure(known_pixels_in_percent=np.array([100 * known.size / max(values.size, 1)]))
        for name, quantile in (("nearest", 0), ("median", 50), ("farthest", 100)):
            self._measure(**{f"{name}_value_of_an_image": np.percentile(known, [quantile])} if known.size else {})


_ADD: Mapping[LabelKind, Callable[[LabelCounts, Any, tuple[int, int]], None]] = {
    LabelKind.CLASS_INDEX: LabelCounts._add_class,
    LabelKind.MULTI_HOT: LabelCounts._add_classes,
    LabelKind.MASK: LabelCounts._add_mask,
    LabelKind.BOXES: LabelCounts._add_objects,
    LabelKind.INSTANCE_MASKS: LabelCounts._add_objects,
    LabelKind.INSTANCE_POINTS: LabelCounts._add_objects,
    LabelKind.POINTS: LabelCounts._add_points,
    LabelKind.DENSE_MAP: LabelCounts._add_map,
    LabelKind.TEXT: LabelCounts._add_text,
    LabelKind.ID: LabelCounts._add_identity,
}


def quantiles_of(name: str, values: npt.NDArray[Any]) -> Quantiles:
    """Return the distribution of values (N,)."""
    shares = [*QUANTILES.values()]
    found = np.quantile(values, shares) if values.size else np.full(len(shares), np.nan)
    return Quantiles(name, int(values.size), tuple(float(each) for each in found))
