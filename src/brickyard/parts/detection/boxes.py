"""Boxes and what heads regress: distances, deltas, overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MAX_LOG_SCALE = math.log(1000 / 16)  # torchvision's: a box is at most 62 times its anchor, and exp stays finite


def decode_distances(distances: Tensor, anchors: Tensor) -> Tensor:
    """Distances from an anchor's centre to the sides of a box -> the box, as FCOS has them.

    Args:
        distances: (..., 4), left, top, right and bottom in units of the anchor's width and height.
        anchors: (..., 4), broadcast.
    """
    low, high = anchors.chunk(2, dim=-1)
    center, size = (low + high) / 2, high - low
    return torch.cat([center - distances[..., :2] * size, center + distances[..., 2:] * size], dim=-1)


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) -> shifts and log scales against anchors (..., 4), as R-CNN has them (Girshick et al. 2014)."""
    center, size = _center_and_size(boxes)
    from_center, from_size = _center_and_size(anchors)
    return torch.cat([(center - from_center) / from_size, torch.log(size / from_size)], dim=-1)


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_deltas`."""
    from_center, from_size = _center_and_size(anchors)
    center = deltas[..., :2] * from_size + from_center
    half = deltas[..., 2:].clamp(max=_MAX_LOG_SCALE).exp() * from_size / 2
    return torch.cat([center - half, center + half], dim=-1)


def overlaps(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Intersection over union of boxes (B, M, 4) with anchors (P, 4): (B, M, P); 0 for a box without area."""
    boxes = boxes[:, :, None]
    low = torch.maximum(boxes[..., :2], anchors[:, :2])
    high = torch.minimum(boxes[..., 2:], anchors[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared / (area_of(boxes) + area_of(anchors) - shared)


def area_of(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Tensor, image_size: Sequence[int]) -> Tensor:
    """Boxes (..., 4) cut at the edges of a picture of (H, W)."""
    height, width = image_size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.chunk(2, dim=-1)
    return (low + high) / 2, high - low
