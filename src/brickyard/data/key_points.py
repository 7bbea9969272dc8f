"""Key points of objects in annotations: their checks, their labels, and what a flip exchanges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from brickyard.core.specs import KeypointSpec
from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError

Points = npt.NDArray[np.float32]  # (K, 3): x, y and the visibility as in COCO

KEYPOINT_KINDS = {"pose": LabelKind.INSTANCE_POINTS, "kpt": LabelKind.POINTS}
_SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
_TOLERANCE = 0.01  # of the image's side, by which a point may be outside of it; one pixel at least


def flip_pairs_of(names: Sequence[str]) -> tuple[tuple[int, int], ...] | None:
    """Return the pairs of points that a flip exchanges, by their names: "left_eye" and "right_eye".

    Returns:
        The pairs of indices, None if no name has a side, so that it is unknown what a flip exchanges.
    """
    pairs = set()
    for left, right in _SIDES:
        for index, name in enumerate(names):
            if left in name and (other := name.replace(left, right)) in names:
                pairs.add((index, names.index(other)))
    return tuple(sorted(pairs)) or None


def check_key_points(points: Points, size: tuple[int, int], location: str) -> None:
    """Check the key points (K, 3) of an object, in pixels of an image of (height, width).

    Raises:
        BrickInputError: A visibility is not 0, 1 or 2, or a known point is not finite or outside of the image.
    """
    visibility = points[:, 2]
    if not np.isin(visibility, (0, 1, 2)).all():
        found = visibility[~np.isin(visibility, (0, 1, 2))][0]
        raise BrickInputError(location, "a visibility of 0 (unknown), 1 (hidden) or 2", f"{found:g}")
    known = points[visibility > 0, :2]
    sides = np.array([size[1], size[0]])
    tolerance = np.maximum(1, _TOLERANCE * sides)
    is_inside = ((known >= -tolerance) & (known <= sides + tolerance)).all(axis=1)  # False for nan
    if not is_inside.all():
        expected = f"key points on the image of {size[1]}x{size[0]} pixels"
        raise BrickInputError(location, expected, f"{known[~is_inside][0].tolist()}")


def key_point_target(points: Sequence[Points | None], spec: KeypointSpec, size: tuple[int, int]) -> Tensor:
    """Make the key points (M, K, 3) of the objects of an image; zeros for an object without."""
    target = np.zeros((len(points), len(spec.names), 3), dtype=np.float32)
    for row, each in zip(target, points, strict=True):
        if each is not None:
            row[:] = each
    coordinates = target[..., :2]
    np.clip(coordinates, 0, (size[1], size[0]), out=coordinates)  # of known points, within the tolerance
    target[target[..., 2] == 0] = 0
    return torch.from_numpy(target)


def single_object(points: Sequence[Points | None]) -> int | None:
    """Return the index of the only object with known key points, None if there are several, or none."""
    known = [index for index, each in enumerate(points) if each is not None and (each[:, 2] > 0).any()]
    return known[0] if len(known) == 1 else None
