"""The targets of a picture by the objects on it: which are there, where they are, which pixels they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval.core import mask as coco_masks
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its name everywhere

from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED


def object_labels(names: Sequence[str], *, masks: bool, location: str) -> dict[str, tuple[str, ...]]:
    """The labels of `cls` (several a picture), `det`, and `seg` if there are masks: 0 is background.

    Raises:
        BrickInputError: Too many classes for a mask.
    """
    if masks and len(names) >= IGNORED:
        raise BrickInputError(location, f"fewer than {IGNORED} classes, since {IGNORED} marks unknown", f"{len(names)}")
    classes = tuple(names)
    return {"cls": classes, **({"seg": ("background", *classes)} if masks else {}), "det": classes}


def presence(classes: Iterable[int], num_classes: int) -> Tensor:
    """(K,) int64, 1 for each of the classes in [0, K) that is there, else 0."""
    there = torch.zeros(num_classes, dtype=torch.int64)
    there[sorted(set(classes))] = 1
    return there


def box_target(boxes: tv_tensors.BoundingBoxes, labels: Sequence[int]) -> dict[str, Tensor]:
    """Boxes (M, 4) float32 within the picture, and labels (M,) int64.

    What reaches beyond the picture is cut off; boxes that are less than a pixel then, or were, are left out.
    """
    inside, kept = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(boxes))
    return {"boxes": inside, "labels": torch.tensor(labels, dtype=torch.int64)[kept]}


def rasterize(objects: Iterable[tuple[Any, int]], size: tuple[int, int], location: str) -> Tensor:
    """Paint objects on background, the smaller ones onto the larger ones, what is unknown below all.

    Args:
        objects: The shape of each, in one of COCO's forms, and its value in the mask. Shapes are polygons as a list of
            [x1, y1, x2, y2, ...] in pixels, or run lengths, compressed or not.
        size: (height, width).
        location: What errors name.

    Returns:
        (H, W) int64, 0 where nothing is.

    Raises:
        BrickInputError: A shape that is none, or is of another size.
    """
    shapes = [(_pixels(shape, size, location), value) for shape, value in objects]
    shapes.sort(key=lambda pair: (pair[1] != IGNORED, -int(pair[0].sum())))
    classes = np.zeros(size, dtype=np.int64)
    for pixels, value in shapes:
        classes[pixels] = value
    return torch.from_numpy(classes)


def _pixels(shape: Any, size: tuple[int, int], location: str) -> npt.NDArray[np.bool_]:
    """Which pixels (H, W) a shape has."""
    height, width = size
    try:
        if isinstance(shape, list):
            if any(len(polygon) % 2 for polygon in shape):
                raise ValueError("an odd number of coordinates")
            shape = [polygon for polygon in shape if len(polygon) >= 6]  # two points have no area
            if not shape:
                return np.zeros(size, dtype=bool)
            told = size
        else:
            told = (shape["size"][0], shape["size"][1])
        # Before it is unpacked: a few bytes can claim any size.
        pixels = coco_masks.decode(coco_masks.segmToRle(shape, width, height)) if told == size else None
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise BrickInputError(location, "polygons or run lengths as COCO has them", f"{error}") from None
    if pixels is None:
        raise BrickInputError(location, f"a shape on {width}x{height} pixels", f"{told[1]}x{told[0]}")
    found: npt.NDArray[np.bool_] = pixels.astype(bool)
    return found
