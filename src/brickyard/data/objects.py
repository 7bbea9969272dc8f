"""Labels of an image from its annotated objects: class presence, boxes and a class mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval.core import mask as coco_masks
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

_NEAR = 10  # coordinates may be as far from the origin as this many times the longer side of the image
_MAX_PERIMETER = 500  # of a polygon, as a multiple of the longer side of the image
_SHAPES = "polygons or run-length encodings as in COCO"

OBJECT_KINDS = {
    "cls": LabelKind.MULTI_HOT,
    "seg": LabelKind.MASK,
    "inst": LabelKind.INSTANCE_MASKS,
    "det": LabelKind.BOXES,
    "fomo": LabelKind.BOXES,
}


def object_labels(
    names: Sequence[str], *, masks: bool, location: str, instances: bool = False
) -> dict[str, tuple[str, ...]]:
    """Return the class names of labels of annotated objects.

    Args:
        names: The classes of objects.
        masks: Whether there are masks of classes, for `seg`, whose class 0 is background.
        location: The location that an error names.
        instances: Whether there are masks of single objects, for `inst`.

    Returns:
        The names for `cls` (multi-label), `seg`, `inst`, `det` and `fomo`.

    Raises:
        BrickInputError: There are too many classes for a mask.
    """
    if masks and len(names) >= IGNORED:
        raise BrickInputError(location, f"fewer than {IGNORED} classes, since {IGNORED} marks unknown", f"{len(names)}")
    classes = tuple(names)
    labels = {"cls": classes, "seg": ("background", *classes), "inst": classes, "det": classes, "fomo": classes}
    absent = {"seg": not masks, "inst": not instances}
    return {label: values for label, values in labels.items() if not absent.get(label)}


def presence(classes: Iterable[int], num_classes: int) -> Tensor:
    """Encode classes in [0, K) as multi-hot: (K,) int64, 1 for each class that is present, else 0."""
    present = torch.zeros(num_classes, dtype=torch.int64)
    present[sorted(set(classes))] = 1
    return present


def count_small(boxes: Iterable[Sequence[float]], size: tuple[int, int]) -> int:
    """Count the boxes (x1, y1, x2, y2) that `box_target` drops on an image of (height, width)."""
    corners = np.array([*boxes], dtype=np.float64).reshape(-1, 2, 2).clip(0, (size[1], size[0]))
    return int((corners[:, 1] - corners[:, 0] < 1).any(axis=1).sum())


def box_target(
    boxes: tv_tensors.BoundingBoxes,
    labels: Sequence[int],
    ignore: Sequence[bool] | None = None,
    **entries: Tensor,
) -> dict[str, Tensor]:
    """Make a label for detection: boxes (M, 4) float32 within the image, labels (M,) int64, ignore (M,) bool.

    Boxes are clamped to the image; those with a side below one pixel before or after it are dropped.

    Args:
        boxes: The box of each object.
        labels: The class of each object.
        ignore: Whether loss and metric ignore the object, as COCO's crowds and VOC's difficult objects; None for none.
        **entries: Further entries of the label with a row for each object, such as masks.
    """
    clamped, kept = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(boxes))
    ignored = torch.tensor([False] * len(labels) if ignore is None else ignore, dtype=torch.bool)
    rows = {"labels": torch.tensor(labels, dtype=torch.int64), "ignore": ignored, **entries}
    return {"boxes": clamped, **{name: entry[kept] for name, entry in rows.items()}}


def check_box(corners: Sequence[float], size: tuple[int, int], location: str) -> None:
    """Check that a box (x1, y1, x2, y2), in pixels, is finite and on an image of (height, width); it may reach beyond.

    Raises:
        BrickInputError: It is not.
    """
    x1, y1, x2, y2 = corners
    _check_coordinates(np.asarray(corners, dtype=np.float64), size, location)
    height, width = size
    if not (x1 <= x2 and y1 <= y2):
        raise BrickInputError(location, "a box with x1 <= x2 and y1 <= y2", f"{list(corners)}")
    if x2 < -1 or y2 < -1 or x1 > width + 1 or y1 > height + 1:  # a pixel of tolerance for rounding
        raise BrickInputError(location, f"a box on the image of {width}x{height} pixels", f"{list(corners)}")


def check_shape(shape: Any, size: tuple[int, int], location: str) -> None:
    """Check the shape of an object without drawing polygons; a run-length encoding is decoded.

    Args:
        shape: Polygons or a run-length encoding, see `pixels_of`.
        size: (height, width) of the image.
        location: The location that an error names.

    Raises:
        BrickInputError: Polygons with coordinates that are not numbers, not finite or far from the image, or a
            perimeter that would take memory without bound to draw; a run-length encoding that is damaged, empty or
            of another size; no polygon has three points.
    """
    _check_form(shape, size, location)
    if not isinstance(shape, list):
        if not _decoded(shape, size, location).any():
            raise BrickInputError(location, "a shape with pixels", "none")
    elif not any(len(polygon) >= 6 for polygon in shape):
        raise BrickInputError(location, "a polygon of three points or more", "fewer")


def _check_form(shape: Any, size: tuple[int, int], location: str) -> None:
    """Check what would make decoding a shape fail, or take memory without bound."""
    if not isinstance(shape, list):
        try:
            encoded = (shape["size"][0], shape["size"][1])
        except (TypeError, KeyError, IndexError) as error:
            raise BrickInputError(location, _SHAPES, f"{type(error).__name__}: {error}") from None
        if encoded != size:
            expected = f"a shape on {size[1]}x{size[0]} pixels"
            raise BrickInputError(location, expected, f"{encoded[1]}x{encoded[0]}")
        return
    for polygon in shape:
        try:
            coordinates = np.array(polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise BrickInputError(location, _SHAPES, f"{error}") from None
        if coordinates.ndim != 1 or coordinates.size % 2:
            found = "an odd number of coordinates" if coordinates.ndim == 1 else f"{str(polygon)[:100]}"
            raise BrickInputError(location, _SHAPES, found)
        _check_coordinates(coordinates, size, location)
        perimeter, limit = np.abs(np.diff(coordinates.reshape(-1, 2), axis=0)).sum(), _MAX_PERIMETER * max(size)
        if perimeter > limit:  # drawing takes memory for each pixel of it
            expected = f"polygons with a perimeter of at most {limit} pixels"
            raise BrickInputError(location, expected, f"{perimeter:.0f} pixels with {coordinates.size // 2} points")


def bounds(shape: Any, size: tuple[int, int], location: str) -> tuple[float, float, float, float]:
    """Return the box (x1, y1, x2, y2) around a shape that `check_shape` accepts."""
    if isinstance(shape, list):
        points = np.concatenate([np.array(polygon, dtype=np.float64) for polygon in shape]).reshape(-1, 2)
        (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return x1, y1, x2, y2
    rows, columns = np.nonzero(_decoded(shape, size, location))
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def _check_coordinates(values: npt.NDArray[np.float64], size: tuple[int, int], location: str) -> None:
    if not np.isfinite(values).all():
        raise BrickInputError(location, "finite coordinates", f"{values[~np.isfinite(values)][0]}")
    limit = _NEAR * max(size)
    if values.size and np.abs(values).max() > limit:
        expected = f"coordinates within {limit} pixels, {_NEAR} times the longer side of the image"
        raise BrickInputError(location, expected, f"{values[np.abs(values).argmax()]:g}")


def rasterize(shapes: Iterable[tuple[npt.NDArray[np.bool_], int]], size: tuple[int, int]) -> Tensor:
    """Draw objects into a mask, smaller ones over larger ones, ignored ones below all others.

    Args:
        shapes: The pixels (H, W) of each object, see `pixels_of`, and its value in the mask.
        size: (height, width).

    Returns:
        (H, W) int64, 0 where there is no object.
    """
    ordered = sorted(shapes, key=lambda pair: (pair[1] != IGNORED, -int(pair[0].sum())))
    classes = np.zeros(size, dtype=np.int64)
    for pixels, value in ordered:
        classes[pixels] = value
    return torch.from_numpy(classes)


def instance_masks(shapes: Sequence[npt.NDArray[np.bool_]], size: tuple[int, int]) -> Tensor:
    """Stack the pixels (H, W) of objects to masks (M, H, W) uint8, of 0 and 1."""
    stacked = np.array(shapes, dtype=bool).reshape(-1, *size)
    return torch.from_numpy(stacked.view(np.uint8))


def pixels_of(shape: Any, size: tuple[int, int], location: str) -> npt.NDArray[np.bool_]:
    """Decode a shape to its pixels, (H, W) bool.

    Args:
        shape: Polygons as a list of [x1, y1, x2, y2, ...] in pixels, or a run-length encoding as in COCO, compressed or
            not.
        size: (height, width) of the image.
        location: The location that an error names.

    Raises:
        BrickInputError: The shape is damaged or of another size, see `check_shape`.
    """
    _check_form(shape, size, location)
    return _decoded(shape, size, location)


def _decoded(shape: Any, size: tuple[int, int], location: str) -> npt.NDArray[np.bool_]:
    height, width = size
    if isinstance(shape, list):
        shape = [polygon for polygon in shape if len(polygon) >= 6]  # two points have no area
        if not shape:
            raise BrickInputError(location, "a polygon of three points or more", "fewer")
    try:
        pixels = coco_masks.decode(coco_masks.segmToRle(shape, width, height))
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise BrickInputError(location, _SHAPES, f"{error}") from None
    decoded: npt.NDArray[np.bool_] = pixels.astype(bool)
    return decoded
