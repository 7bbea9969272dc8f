"""Checks of the labels of a batch: types, shapes and ranges, by kind, before any brick reads them.

Shapes and dtypes are always checked. Values are checked where they are on the CPU, so that a training step on a GPU
does not wait for the result; lists of boxes are copied to the GPU one by one anyway and are checked on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from brickyard.errors import BrickInputError
from brickyard.parts.detection.targets import ignored_classes, is_ignored
from brickyard.parts.segmentation import IGNORED

_TOLERANCE = 1.0  # pixels that boxes may exceed the image, because of rounding when images are resized


@final
@dataclass(frozen=True)
class LabelContext:
    """What the label of a batch is compared with.

    Attributes:
        location: The name of the label, for errors.
        rows: B, None if unknown.
        size: (H, W) of the images, None if unknown.
        num_classes: K, None if the label has no classes.
        labelled: (B,) bool, the rows whose values count; None for all.
        num_keypoints: The number of key points of each object, None if unknown.
    """

    location: str
    rows: int | None
    size: tuple[int, int] | None
    num_classes: int | None
    labelled: Tensor | None
    num_keypoints: int | None = None


def check_class_index(label: Any, context: LabelContext) -> None:
    """Check classes (B,) int64 in [0, K)."""
    _check_form(label, context, "(B,)", (context.rows,), (torch.int64,))
    _check_range(label, context, ignored=None)


def check_id(label: Any, context: LabelContext) -> None:
    """Check identities (B,) int64."""
    _check_form(label, context, "(B,)", (context.rows,), (torch.int64,))


def check_multi_hot(label: Any, context: LabelContext) -> None:
    """Check (B, K) of 0 and 1, of any real dtype."""
    _check_form(label, context, "(B, K)", (context.rows, context.num_classes), None)
    _check_values(label, (label == 0) | (label == 1), context, "0 or 1")


def check_mask(label: Any, context: LabelContext) -> None:
    """Check masks (B, H, W) int64, in [0, K) or 255 for unknown."""
    height, width = context.size or (None, None)
    _check_form(label, context, "(B, H, W)", (context.rows, height, width), (torch.int64,))
    _check_range(label, context, ignored=IGNORED)


def check_points(label: Any, context: LabelContext) -> None:
    """Check points (B, ..., 3) float: x, y and visibility, finite."""
    if not isinstance(label, Tensor) or label.ndim < 3:
        raise BrickInputError(context.location, "points (B, K, 3) of x, y and visibility", _form_of(label))
    shape = (context.rows, *[None] * (label.ndim - 3), context.num_classes, 3)
    _check_form(label, context, "(B, K, 3)", shape, None)
    _check_values(label, label.isfinite(), context, "finite coordinates")


def check_dense_map(label: Any, context: LabelContext) -> None:
    """Check maps (B, H, W) or (B, C, H, W) of a floating-point dtype."""
    if not isinstance(label, Tensor) or not label.is_floating_point() or label.ndim not in (3, 4):
        expected = "a map (B, H, W) or (B, C, H, W) of a floating-point dtype"
        raise BrickInputError(context.location, expected, _form_of(label))
    height, width = context.size or (None, None)
    _check_form(label, context, "(B, H, W)", (context.rows, *[None] * (label.ndim - 3), height, width), None)


def check_texts(label: Any, context: LabelContext) -> None:
    """Check a list of B strings; of a head with characters as its classes, or encoded ones (B, L), see `EncodeText`."""
    if isinstance(label, Tensor) and context.num_classes is not None:
        _check_form(label, context, "(B, L)", (context.rows, None), (torch.int64,))
        _check_values(label, (label >= -1) & (label < context.num_classes), context, f"-1 to {context.num_classes - 1}")
        return
    is_text = isinstance(label, Sequence) and not isinstance(label, str) and all(isinstance(x, str) for x in label)
    if not is_text or (context.rows is not None and len(label) != context.rows):
        raise BrickInputError(context.location, f"a list of B = {context.rows} strings", _form_of(label))


def check_nothing(label: Any, context: LabelContext) -> None:
    """Accept any label: its task checks the type."""


def check_boxes(label: Any, context: LabelContext) -> None:
    """Check a list of {"boxes": (M, 4), "labels": (M,)}, one per image, or the same padded to (B, M, 4) and (B, M).

    Boxes are xyxy in pixels, finite, with an area and inside the image; labels are integers in [0, K); "ignore", where
    it is given, is (M,) bool.
    """
    if isinstance(label, Mapping):
        _check_padded_boxes(label, context)
        return
    if not isinstance(label, Sequence) or isinstance(label, str):
        raise BrickInputError(context.location, "a list with the boxes of each image", _form_of(label))
    if context.rows is not None and len(label) != context.rows:
        raise BrickInputError(context.location, f"boxes of {context.rows} images", f"{len(label)}")
    for row, target in enumerate(label):
        _check_entries(target, f"{context.location}, row {row}", 2, integers=True)
    if not label:
        return
    counts = [len(target["labels"]) for target in label]
    rows = torch.repeat_interleave(torch.arange(len(label)), torch.tensor(counts))
    boxes = torch.cat([target["boxes"].detach().float() for target in label])
    labels = torch.cat([target["labels"] for target in label])
    _check_box_values(boxes, labels, rows, context)


def check_instance_masks(label: Any, context: LabelContext) -> None:
    """Check boxes, see `check_boxes`, and "masks" (M, H, W) of an integer or bool dtype, or (B, M, H, W) if padded."""
    check_boxes(label, context)
    for target, location in _targets_of(label, context):
        _check_masks(target, location, context.size)


def check_instance_points(label: Any, context: LabelContext) -> None:
    """Check boxes, see `check_boxes`, and "keypoints" (M, K, 3), finite, or (B, M, K, 3) if padded; and any "masks"."""
    check_boxes(label, context)
    for target, location in _targets_of(label, context):
        points, rows, count = target.get("keypoints"), target["labels"].shape, context.num_keypoints
        shape = f"({', '.join(map(str, (*rows, count or 'K')))}, 3)"
        if (
            not isinstance(points, Tensor)
            or (points.shape[:-2], points.shape[-1:]) != (rows, (3,))
            or count not in (None, points.shape[-2])
        ):
            raise BrickInputError(location, f'"keypoints" {shape} of x, y and visibility', _form_of(points))
        if points.device.type == "cpu" and not points.isfinite().all():
            raise BrickInputError(location, '"keypoints" with finite coordinates', "nan or infinite ones")
        if "masks" in target:
            _check_masks(target, location, context.size)


def _check_masks(target: Mapping[str, Any], location: str, size: tuple[int, int] | None) -> None:
    masks, rows = target.get("masks"), target["labels"].shape
    shape = ", ".join(map(str, (*rows, *(size or "HW"))))
    if not isinstance(masks, Tensor) or masks.shape[:-2] != rows or size not in (None, masks.shape[-2:]):
        raise BrickInputError(location, f'"masks" (M, H, W) = ({shape})', _form_of(masks))
    if masks.is_floating_point() or masks.is_complex():
        raise BrickInputError(location, '"masks" of an integer or bool dtype', f"{masks.dtype}")


def _targets_of(label: Any, context: LabelContext) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the boxes of each labelled image, or the padded ones of all images, with the location that errors name."""
    if isinstance(label, Mapping):
        yield label, context.location
        return
    for row, target in enumerate(label):
        if context.labelled is None or context.labelled[row]:
            yield target, f"{context.location}, row {row}"


def _check_padded_boxes(label: Mapping[str, Any], context: LabelContext) -> None:
    _check_entries(label, context.location, 3, integers=False)
    if context.rows is not None and len(label["boxes"]) != context.rows:
        raise BrickInputError(context.location, f"boxes of {context.rows} images", f"{len(label['boxes'])}")
    if label["boxes"].device.type != "cpu":
        return
    labels = label["labels"]
    rows, columns = (labels != -1).nonzero(as_tuple=True)
    labels = labels[rows, columns]
    classes = torch.where(is_ignored(labels), ignored_classes(labels), labels)
    _check_box_values(label["boxes"].detach().float()[rows, columns], classes, rows, context)


def _check_entries(target: Any, location: str, ndim: int, *, integers: bool) -> None:
    """Check the entries of one image (`ndim` 2) or of a padded batch (3)."""
    if not isinstance(target, Mapping):
        raise BrickInputError(location, 'a dictionary with "boxes" and "labels"', _form_of(target))
    if missing := {"boxes", "labels"} - set(target):
        raise BrickInputError(location, 'a dictionary with "boxes" and "labels"', f"no {sorted(missing)}")
    boxes, labels = target["boxes"], target["labels"]
    shape = "(M, 4)" if ndim == 2 else "(B, M, 4)"
    if not isinstance(boxes, Tensor) or boxes.ndim != ndim or boxes.shape[-1] != 4:
        raise BrickInputError(location, f"boxes {shape}, (x1, y1, x2, y2) in pixels", _form_of(boxes))
    if boxes.is_complex():
        raise BrickInputError(location, f"boxes {shape} of a real dtype", _form_of(boxes))
    if not isinstance(labels, Tensor) or labels.shape != boxes.shape[:-1]:
        raise BrickInputError(location, f"labels {tuple(boxes.shape[:-1])} of its boxes", _form_of(labels))
    is_integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not (is_integer if integers else labels.dtype == torch.int64):
        raise BrickInputError(location, f"labels of {'an integer dtype' if integers else 'int64'}", f"{labels.dtype}")
    ignore = target.get("ignore")
    if ignore is not None and not (
        isinstance(ignore, Tensor) and ignore.shape == labels.shape and ignore.dtype == torch.bool
    ):
        raise BrickInputError(location, f'"ignore" {tuple(labels.shape)} bool', _form_of(ignore))


def _check_box_values(boxes: Tensor, labels: Tensor, rows: Tensor, context: LabelContext) -> None:
    """Check the boxes (M, 4) of all images together, so that a GPU is waited for once.

    Args:
        boxes: (M, 4) float32.
        labels: (M,) classes.
        rows: (M,) the image of each box.
        context: What to compare with; unlabelled rows are not checked.
    """
    if context.labelled is not None:
        known = context.labelled.to(rows.device)[rows]
        boxes, labels, rows = boxes[known.to(boxes.device)], labels[known.to(labels.device)], rows[known]
    height, width = context.size or (torch.inf, torch.inf)
    limit = boxes.new_tensor([width, height, width, height]) + _TOLERANCE
    num_classes = torch.inf if context.num_classes is None else context.num_classes
    are_relative = (boxes <= 1).all() & (min(height, width) > 1)
    is_outside = ((boxes < -_TOLERANCE) | (boxes > limit)).any(dim=1)
    checks = [  # the boxes that are invalid, what is expected, and the values that show it
        (~boxes.isfinite().all(dim=1), "finite coordinates", boxes),
        ((boxes[:, 2:] <= boxes[:, :2]).any(dim=1), "x1 < x2 and y1 < y2", boxes),
        (is_outside, f"a box inside the image of {width}x{height} pixels", boxes),
        ((labels < 0) | (labels >= num_classes), f"a class in [0, {num_classes})", labels),
        (are_relative.expand(len(boxes)), "boxes in pixels", None),
    ]
    invalid = torch.stack([each for each, *_ in checks])
    if not invalid.any():
        return
    box = int(invalid.any(dim=0).nonzero()[0])
    _, expected, values = checks[int(invalid[:, box].nonzero()[0])]
    row = int(rows[box])
    location = f"{context.location}, row {row}, box {box - int((rows < row).sum())}"
    if values is None:
        hint = "Multiply them by the width and height of the image."
        raise BrickInputError(location, expected, "all coordinates of the batch in [0, 1]", hint)
    raise BrickInputError(location, expected, f"{values[box].tolist()}")


def _check_form(
    label: Any,
    context: LabelContext,
    letters: str,
    shape: tuple[int | None, ...],
    dtypes: tuple[torch.dtype, ...] | None,
) -> None:
    """Check the shape, None for a length that is unknown, and the dtype of a tensor; None for any real dtype."""
    names = "" if dtypes is None else " of " + " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    known = letters if None in shape else f"{letters} = {shape}"
    expected = f"a tensor {known}{names}"
    if not isinstance(label, Tensor):
        raise BrickInputError(context.location, expected, _form_of(label))
    if label.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, label.shape, strict=True)):
        raise BrickInputError(context.location, expected, _form_of(label))
    if label.dtype not in dtypes if dtypes is not None else label.is_complex():
        hint = "" if label.is_floating_point() or label.is_complex() else "Convert it with `.long()`."
        raise BrickInputError(context.location, expected, _form_of(label), hint)


def _check_range(label: Tensor, context: LabelContext, ignored: int | None) -> None:
    if context.num_classes is None or label.device.type != "cpu":
        return
    valid = (label >= 0) & (label < context.num_classes)
    expected = f"classes in [0, {context.num_classes})"
    if ignored is not None:
        valid |= label == ignored
        expected = f"{expected} or {ignored}"
    _check_values(label, valid, context, expected)


def _check_values(label: Tensor, valid: Tensor, context: LabelContext, expected: str) -> None:
    """Raise for the first labelled row with a value that is not valid."""
    if label.device.type != "cpu":
        return
    invalid = ~valid.flatten(1) if valid.ndim > 1 else ~valid[:, None]
    if context.labelled is not None:
        invalid &= context.labelled.cpu()[:, None]
    if not invalid.any():
        return
    row = int(invalid.any(dim=1).nonzero()[0])
    values = sorted(set(label[row].flatten()[invalid[row]].tolist()))[:5]
    raise BrickInputError(f"{context.location}, row {row}", expected, f"{values}")


def _form_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
