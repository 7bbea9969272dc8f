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

OBJECT_KINDS = {"cls": LabelKind.MULTI_HOT, "seg": LabelKind.MASK, "det": LabelKind.BOXES}


def object_labels(names: Sequence[str], *, masks: bool, location: str) -> dict[str, tuple[str, ...]]:
    """Return the class names of `cls` (multi-label), `det` and, with masks, `seg`, whose class 0 is background.

    Raises:
        BrickInputError: There are too many classes for a mask.
    """
    if masks and len(names) >= IGNORED:
        raise BrickInputError(location, f"fewer than {IGNORED} classes, since {IGNORED} marks unknown", f"{len(names)}")
    classes = tuple(names)
    return {"cls": classes, **({"seg": ("background", *classes)} if masks else {}), "det": classes}


def presence(classes: Iterable[int], num_classes: int) -> Tensor:
    """Encode classes in [0, K) as multi-hot: (K,) int64, 1 for each class that is present, else 0."""
    present = torch.zeros(num_classes, dtype=torch.int64)
    present[sorted(set(classes))] = 1
    return present


def box_target(
    boxes: tv_tensors.BoundingBoxes, labels: Sequence[int], ignore: Sequence[bool] | None = None
) -> dict[str, Tensor]:
    """Make a label for detection: boxes (M, 4) float32 within the image, labels (M,) int64, ignore (M,) bool.

    Boxes are clamped to the image; those with a side below one pixel before or after it are dropped.

    Args:
        boxes: The box of each object.
        labels: The class of each object.
        ignore: Whether loss and metric ignore the object, as COCO's crowds and VOC's difficult objects; None for none.
    """
    clamped, kept = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(boxes))
    ignored = torch.tensor([False] * len(labels) if ignore is None else ignore, dtype=torch.bool)
    return {"boxes": clamped, "labels": torch.tensor(labels, dtype=torch.int64)[kept], "ignore": ignored[kept]}


def rasterize(objects: Iterable[tuple[Any, int]], size: tuple[int, int], location: str) -> Tensor:
    """Draw objects into a mask, smaller ones over larger ones, ignored ones below all others.

    Args:
        objects: The shape of each object, in one of COCO's formats, and its value in the mask. Shapes are polygons as a
            list of [x1, y1, x2, y2, ...] in pixels, or run-length encodings, compressed or not.
        size: (height, width).
        location: The location that an error names.

    Returns:
        (H, W) int64, 0 where there is no object.

    Raises:
        BrickInputError: A shape is damaged or of another size.
    """
    shapes = [(_pixels(shape, size, location), value) for shape, value in objects]
    shapes.sort(key=lambda pair: (pair[1] != IGNORED, -int(pair[0].sum())))
    classes = np.zeros(size, dtype=np.int64)
    for pixels, value in shapes:
        classes[pixels] = value
    return torch.from_numpy(classes)


def _pixels(shape: Any, size: tuple[int, int], location: str) -> npt.NDArray[np.bool_]:
    """Decode a shape to its pixels, (H, W) bool."""
    height, width = size
    try:
        if isinstance(shape, list):
            if any(len(polygon) % 2 for polygon in shape):
                raise ValueError("an odd number of coordinates")
            shape = [polygon for polygon in shape if len(polygon) >= 6]  # two points have no area
            if not shape:
                return np.zeros(size, dtype=bool)
            encoded_size = size
        else:
            encoded_size = (shape["size"][0], shape["size"][1])
        # Compared before decoding: a few bytes can claim any size.
        pixels = coco_masks.decode(coco_masks.segmToRle(shape, width, height)) if encoded_size == size else None
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise BrickInputError(location, "polygons or run-length encodings as in COCO", f"{error}") from None
    if pixels is None:
        raise BrickInputError(location, f"a shape on {width}x{height} pixels", f"{encoded_size[1]}x{encoded_size[0]}")
    decoded: npt.NDArray[np.bool_] = pixels.astype(bool)
    return decoded
