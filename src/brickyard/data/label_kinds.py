"""Kinds of labels: how a label of each kind moves with its image, what a missing one is collated as, how it is counted.

The kind of a label is always declared, by the data set that has it (`LabelledDataset.kinds`) and by the task that reads
it (`Task.label_kinds`). It is never inferred from a dtype or a rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, final

import torch
from torch import Tensor
from torchvision import tv_tensors

from brickyard.data.label_checks import (
    LabelContext,
    check_boxes,
    check_class_index,
    check_dense_map,
    check_id,
    check_instance_masks,
    check_instance_points,
    check_mask,
    check_multi_hot,
    check_nothing,
    check_points,
    check_texts,
)
from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

TARGETS = "targets/"  # the prefix of the names of labels in a sample and in a batch
LABELLED = "labelled/"  # the prefix of (B,) bool: the rows that have the label

Parts = dict[str, Any]  # `tv_tensors`, by the entry of the label that they are


class LabelKind(Enum):
    """The kind of a label; shapes are those of one image.

    Attributes:
        CLASS_INDEX: () integer, one of K classes.
        MULTI_HOT: (K,) of 0 and 1, any number of K classes.
        MASK: (H, W) integer classes of the pixels, 255 where the class is unknown; bool becomes int64 when it is moved.
        BOXES: {"boxes": (M, 4) xyxy pixels, "labels": (M,), ...}; every other entry has one row per box, too. Loss and
            metric ignore the boxes that "ignore" (M,) bool marks; without that entry, none.
        INSTANCE_MASKS: `BOXES` with "masks" (M, H, W) of 0 and 1.
        INSTANCE_POINTS: `BOXES` with "keypoints" (M, K, 3), points as in `POINTS`; optionally with "masks" as well.
        POINTS: (..., K, 3) x and y in pixels, where the first pixel spans [0, 1], and the visibility as in COCO, 0 for
            unknown points.
        DENSE_MAP: (H, W) or (C, H, W) float, a measurement of each pixel such as depth; unknown where it is not above 0
            or not finite.
        TEXT: str.
        ID: () integer, the identity of what an image shows.
        METADATA: A number, or numbers that do not depend on pixels.
    """

    CLASS_INDEX = "class index"
    MULTI_HOT = "multi-hot"
    MASK = "mask"
    BOXES = "boxes"
    INSTANCE_MASKS = "instance masks"
    INSTANCE_POINTS = "instance points"
    POINTS = "points"
    DENSE_MAP = "dense map"
    TEXT = "text"
    ID = "id"
    METADATA = "metadata"


@final
@dataclass(frozen=True)
class KindRules:
    """How labels of one kind are handled.

    Attributes:
        wrap: From a label, the (height, width) of its image and the location that errors name, to those parts of the
            label that move with the image, as the `tv_tensors` of `torchvision.transforms.v2`.
        unwrap: From a label and its moved parts to the moved label.
        fill: The value of a pixel outside of the image.
        neutral: From a label to one of the same form without information, for a row that has no label.
        count: From labels (B, ...) and the labelled rows (B,) bool to the number () of items that a loss averages over.
        check: From labels (B, ...) and their context; raises BrickInputError for another type, shape or range.
        is_stacked: Whether `collate` stacks the labels of a batch; otherwise it keeps a list.
    """

    wrap: Callable[[Any, tuple[int, int], str], Parts]
    unwrap: Callable[[Any, Parts], Any]
    fill: float
    neutral: Callable[[Any], Any]
    count: Callable[[Any, Tensor], Tensor]
    check: Callable[[Any, LabelContext], None]
    is_stacked: bool = True


def kind_of(name: str, kinds: Mapping[str, LabelKind], location: str) -> LabelKind:
    """Look up the kind of a label.

    Args:
        name: The name of the value, "targets/seg".
        kinds: The kinds that a data set declares, by the name without "targets/".
        location: The location that an error names.

    Raises:
        BrickInputError: The data set declares no kind for the label.
    """
    label = name.removeprefix(TARGETS)
    if label not in kinds:
        expected, known = "a kind in the data set's `kinds`", f"kinds for {sorted(kinds)} only"
        hint = f"Add '{label}': LabelKind.X, X one of {', '.join(kind.name for kind in LabelKind)}."
        raise BrickInputError(f"{location}, '{name}'", expected, known, hint)
    return kinds[label]


def check_pixels(boxes: Tensor, location: str) -> None:
    """Check that the boxes (M, 4) of an image, xyxy, are in pixels, not fractions of its size.

    Raises:
        BrickInputError: All boxes lie in [0, 1], and not on one pixel: as pixels, none would be left.
    """
    if not boxes.numel() or boxes.min() < 0 or not 0 < boxes.max() <= 1:
        return
    if (boxes[:, 2:] - boxes[:, :2]).min() < 1:
        hint = "Are they fractions of the image size? Multiply x by the width and y by the height."
        raise BrickInputError(location, "boxes in pixels", f"boxes in [0, 1] only: {boxes[0].tolist()}", hint)


def visible_points(points: Tensor) -> Tensor:
    """Which points (..., 3) are known, (...) bool."""
    return points[..., 2] > 0


def _no_parts(_label: Any, _size: tuple[int, int], _location: str) -> Parts:
    return {}


def _unchanged(label: Any, _parts: Parts) -> Any:
    return label


def _wrap_mask(label: Any, size: tuple[int, int], location: str) -> Parts:
    if not isinstance(label, Tensor) or label.shape != size:
        expected = f"a mask (H, W) = {size}, the size of the image"
        raise BrickInputError(location, expected, _form_of(label))
    if label.dtype == torch.bool:
        label = label.long()  # so that pixels outside of the image can be 255
    return {"mask": tv_tensors.Mask(label)}


def _unwrap_mask(_label: Any, parts: Parts) -> Any:
    return parts["mask"]


def _wrap_dense_map(label: Any, size: tuple[int, int], location: str) -> Parts:
    if not isinstance(label, Tensor) or label.ndim not in (2, 3) or label.shape[-2:] != size:
        expected = f"a dense map (H, W) or (C, H, W), (H, W) = {size} as the image"
        raise BrickInputError(location, expected, _form_of(label))
    return {"map": tv_tensors.Mask(label)}  # a mask of floats: moved by the nearest pixel, never interpolated


def _unwrap_dense_map(_label: Any, parts: Parts) -> Any:
    return parts["map"].as_subclass(Tensor)


def _wrap_boxes(label: Any, size: tuple[int, int], location: str) -> Parts:
    if not isinstance(label, Mapping) or "boxes" not in label:
        raise BrickInputError(location, 'a dictionary with "boxes" (M, 4)', _form_of(label))
    check_pixels(boxes := label["boxes"], location)
    return {"boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)}


def _wrap_instance_masks(label: Any, size: tuple[int, int], location: str) -> Parts:
    parts = _wrap_boxes(label, size, location)
    masks = label.get("masks")
    expected_shape = (len(label["boxes"]), *size)
    if not isinstance(masks, Tensor) or masks.shape != expected_shape:
        raise BrickInputError(location, f'"masks" (M, H, W) = {expected_shape}', _form_of(masks))
    return {**parts, "masks": tv_tensors.Mask(masks)}


def _unwrap_entries(label: Any, parts: Parts) -> Any:
    return {**label, **parts}


def _wrap_instance_points(label: Any, size: tuple[int, int], location: str) -> Parts:
    has_masks = isinstance(label, Mapping) and "masks" in label
    parts = (_wrap_instance_masks if has_masks else _wrap_boxes)(label, size, location)
    points, count = label.get("keypoints"), len(label["boxes"])
    if not isinstance(points, Tensor) or points.ndim != 3 or len(points) != count or points.shape[-1] != 3:
        expected = f'"keypoints" (M, K, 3) = ({count}, K, 3) of x, y and visibility'
        raise BrickInputError(location, expected, _form_of(points))
    return {**parts, "keypoints": _key_points(points, size)}


def _unwrap_instance_points(label: Any, parts: Parts) -> Any:
    return {**label, **parts, "keypoints": _moved_points(label["keypoints"], parts["keypoints"])}


def _wrap_points(label: Any, size: tuple[int, int], location: str) -> Parts:
    if not isinstance(label, Tensor) or label.ndim < 2 or label.shape[-1] != 3:
        raise BrickInputError(location, "points (..., K, 3) of x, y and visibility", _form_of(label))
    return {"points": _key_points(label, size)}


def _unwrap_points(label: Any, parts: Parts) -> Any:
    return _moved_points(label, parts["points"])


def _key_points(points: Tensor, size: tuple[int, int]) -> tv_tensors.KeyPoints:
    coordinates = points[..., :2] if points.is_floating_point() else points[..., :2].float()
    return tv_tensors.KeyPoints(coordinates, canvas_size=size)


def _moved_points(points: Tensor, moved: tv_tensors.KeyPoints) -> Tensor:
    """Return points (..., 3) at new coordinates; those outside of the image become (0, 0, 0), unknown as in COCO."""
    height, width = moved.canvas_size
    coordinates = moved.as_subclass(Tensor)
    inside = ((coordinates >= 0) & (coordinates <= coordinates.new_tensor([width, height]))).all(dim=-1)
    values = torch.cat([coordinates, points[..., 2:].to(coordinates.dtype)], dim=-1)
    return torch.where((inside & visible_points(points))[..., None], values, 0)


def _zeros(label: Any) -> Any:
    return torch.zeros_like(torch.as_tensor(label))


def _ignored(label: Any) -> Any:
    return torch.full_like(torch.as_tensor(label), IGNORED)


def _no_rows(label: Any) -> Any:
    return {name: entry[:0] for name, entry in label.items()}


def _empty_text(_label: Any) -> Any:
    return ""


def _count_rows(_labels: Any, rows: Tensor) -> Tensor:
    return rows.sum()


def _count_known_pixels(labels: Tensor, rows: Tensor) -> Tensor:
    return ((labels != IGNORED) & rows[:, None, None]).sum()


def _count_rows_with_known_pixels(labels: Tensor, rows: Tensor) -> Tensor:
    known = (labels > 0) & labels.isfinite()
    return (known.flatten(1).any(dim=1) & rows).sum()


def _count_visible_points(labels: Tensor, rows: Tensor) -> Tensor:
    return (visible_points(labels).flatten(1) & rows[:, None]).sum()


def _form_of(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _of_image(check: Callable[[Any, LabelContext], None]) -> KindRules:
    """Return the rules of labels that do not move with the image."""
    return KindRules(_no_parts, _unchanged, fill=0, neutral=_zeros, count=_count_rows, check=check)


_BOXES = KindRules(
    _wrap_boxes,
    _unwrap_entries,
    fill=0,
    neutral=_no_rows,
    count=_count_rows,
    check=check_boxes,
    is_stacked=False,
)
KIND_RULES: Mapping[LabelKind, KindRules] = {
    LabelKind.CLASS_INDEX: _of_image(check_class_index),
    LabelKind.MULTI_HOT: _of_image(check_multi_hot),
    LabelKind.MASK: KindRules(
        _wrap_mask, _unwrap_mask, fill=IGNORED, neutral=_ignored, count=_count_known_pixels, check=check_mask
    ),
    LabelKind.BOXES: _BOXES,
    LabelKind.INSTANCE_MASKS: replace(_BOXES, wrap=_wrap_instance_masks, check=check_instance_masks),
    LabelKind.INSTANCE_POINTS: replace(
        _BOXES, wrap=_wrap_instance_points, unwrap=_unwrap_instance_points, check=check_instance_points
    ),
    LabelKind.POINTS: KindRules(
        _wrap_points, _unwrap_points, fill=0, neutral=_zeros, count=_count_visible_points, check=check_points
    ),
    LabelKind.DENSE_MAP: KindRules(
        _wrap_dense_map,
        _unwrap_dense_map,
        fill=0,
        neutral=_zeros,
        count=_count_rows_with_known_pixels,
        check=check_dense_map,
    ),
    LabelKind.TEXT: KindRules(
        _no_parts, _unchanged, fill=0, neutral=_empty_text, count=_count_rows, check=check_texts, is_stacked=False
    ),
    LabelKind.ID: _of_image(check_id),
    LabelKind.METADATA: _of_image(check_nothing),
}
