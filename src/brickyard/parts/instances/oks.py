"""Object key point similarity (OKS), COCO's measure of how well key points agree; https://cocodataset.org."""

from __future__ import annotations

import torch
from torch import Tensor

from brickyard.parts.detection.boxes import area_of

_COVERED = 0.53  # of a box by its object, as CrowdPose and MMPose assume where segmentations are unknown


def object_area(boxes: Tensor) -> Tensor:
    """Estimate the areas of objects from their boxes: (..., 4) -> (...)."""
    return area_of(boxes) * _COVERED


def keypoint_similarity(distances: Tensor, known: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """Compute the OKS, in [0, 1]; 0 without known key points.

    Args:
        distances: (..., J, 2), in pixels, finite.
        known: (..., J) bool, the labelled key points; the mean is over these.
        area: (...), of the object.
        sigmas: (J,), the tolerance of each key point as a fraction of the square root of the area.

    Example:
        >>> away = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> keypoint_similarity(away, torch.tensor([True, True]), torch.tensor(100.0), torch.tensor([0.25, 0.25]))
        tensor(0.8033)
    """
    area = area[..., None].clamp(min=1e-6)
    similarity = torch.exp(-(distances**2).sum(dim=-1) / (2 * area * (2 * sigmas) ** 2))
    return (similarity * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
