"""Box geometry: encoding and decoding of regression targets, areas, IoU, clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MAX_LOG_SCALE = math.log(1000 / 16)  # as in torchvision: limits a box to 62.5 times its anchor


def decode_distances(distances: Tensor, anchors: Tensor) -> Tensor:
    """Decode the distances from the centres of anchors to the sides of boxes, as in FCOS.

    Args:
        distances: (..., 4), to the left, top, right and bottom, in units of the anchor's width and height.
        anchors: (..., 4), broadcastable to `distances`.

    Returns:
        Boxes (..., 4).

    Example:
        >>> decode_distances(torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([0.0, 0.0, 8.0, 8.0]))
        tensor([-4., -4., 20., 20.])
    """
    low, high = anchors.chunk(2, dim=-1)
    center, size = (low + high) / 2, high - low
    return torch.cat([center - distances[..., :2] * size, center + distances[..., 2:] * size], dim=-1)


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Encode boxes (..., 4) as shifts and log scales (..., 4) relative to anchors, as R-CNN does (Girshick 2014)."""
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    return torch.cat([(center - anchor_center) / anchor_size, torch.log(size / anchor_size)], dim=-1)


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Decode shifts and log scales relative to anchors to boxes (..., 4); the inverse of `encode_deltas`."""
    anchor_center, anchor_size = _center_and_size(anchors)
    center = deltas[..., :2] * anchor_size + anchor_center
    half = deltas[..., 2:].clamp(max=_MAX_LOG_SCALE).exp() * anchor_size / 2
    return torch.cat([center - half, center + half], dim=-1)


def pairwise_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Compute the IoU of boxes (B, M, 4) with anchors (P, 4), (B, M, P); 0 for boxes without area."""
    intersection = pairwise_intersection(boxes, anchors)
    return intersection / (area_of(boxes)[..., None] + area_of(anchors) - intersection)


def pairwise_intersection(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Compute the area of the intersection of boxes (B, M, 4) with anchors (P, 4), (B, M, P)."""
    boxes = boxes[:, :, None]
    low = torch.maximum(boxes[..., :2], anchors[:, :2])
    high = torch.minimum(boxes[..., 2:], anchors[:, 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def area_of(boxes: Tensor) -> Tensor:
    """Compute the areas of boxes: (..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Tensor, image_size: Sequence[int]) -> Tensor:
    """Clip boxes (..., 4) to an image of size (H, W)."""
    height, width = image_size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.chunk(2, dim=-1)
    return (low + high) / 2, high - low
