"""Decode the outputs of `InstanceFCOS`: non-maximum suppression of the boxes, then their masks and key points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from brickyard.parts.detection.boxes import decode_distances
from brickyard.parts.detection.decode import NMSDecode


@final
class InstanceDecode(NMSDecode):
    """Decode the outputs of `InstanceFCOS` to a fixed number of objects per image.

    Args:
        score_threshold: The minimum geometric mean of class probability and centerness.
        iou_threshold: The IoU threshold of non-maximum suppression.
        candidates: The number of highest scores per image that take part.
        count: N, the number of objects per image.
        class_agnostic: Whether a box suppresses boxes of every class, so that an object gets one label.
        strides: See `NMSDecode`.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        candidates: int = 1000,
        count: int = 100,
        class_agnostic: bool = False,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__(score_threshold, iou_threshold, candidates, count, class_agnostic, strides)

    def forward(
        self,
        logits: Tensor,
        regression: Tensor,
        centerness: Tensor,
        anchors: Tensor,
        image: Tensor,
        coefficients: Tensor | None = None,
        prototypes: Tensor | None = None,
        points: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Decode a batch; inputs are outputs of `InstanceFCOS`.

        Returns:
            boxes (B, N, 4), scores (B, N) and labels (B, N) as `batched_nms` returns them; with masks, masks
            (B, N, h, w) in [0, 1], which cover the image and are 0 beyond the box and half a cell; with key points,
            keypoints (B, N, J, 3) of x and y in pixels and a score in [0, 1]. The values of padding are 0.
        """
        scores = torch.sqrt(logits.float().sigmoid() * centerness.float().sigmoid())
        boxes = decode_distances(regression.float(), anchors)
        kept, best, labels, index = self.select_anchors(scores, boxes, image)
        outputs = [kept, best, labels]
        is_object = labels >= 0
        if coefficients is not None and prototypes is not None:
            masks = mask_logits(coefficients.float(), prototypes.float(), index).sigmoid()
            inside = in_boxes(kept, image.shape[-2:], prototypes.shape[-2:])
            outputs.append(masks * (inside & is_object[..., None, None]))
        if points is not None:
            of_objects = points.float().gather(1, index[..., None, None].expand(-1, -1, *points.shape[2:]))
            around = boxes.gather(1, index[..., None].expand(-1, -1, 4))
            positions = points_in_boxes(of_objects[..., :2], around)
            keypoints = torch.cat([positions, of_objects[..., 2:].sigmoid()], dim=-1)
            outputs.append(keypoints * is_object[..., None, None])
        return tuple(outputs)


def mask_logits(coefficients: Tensor, prototypes: Tensor, index: Tensor) -> Tensor:
    """Combine prototypes linearly.

    Args:
        coefficients: (B, P, C).
        prototypes: (B, C, h, w).
        index: (B, N), indices into P.

    Returns:
        (B, N, h, w) float32.
    """
    of_objects = coefficients.gather(1, index[..., None].expand(-1, -1, coefficients.shape[2]))
    return torch.einsum("bnc,bchw->bnhw", of_objects, prototypes).float()  # of lower precision under autocast


def in_boxes(boxes: Tensor, image_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """Find the cells in boxes, or up to half a cell beyond.

    Args:
        boxes: (..., 4), in pixels.
        image_size: (H, W) of the image.
        size: (h, w) of the maps, which cover the image.

    Returns:
        (..., h, w) bool.

    Example:
        >>> in_boxes(torch.tensor([8.0, 0.0, 16.0, 4.0]), image_size=(8, 16), size=(2, 4)).int()
        tensor([[0, 0, 1, 1],
                [0, 0, 0, 0]], dtype=torch.int32)
    """
    (height, width), (rows, columns) = image_size, size
    scale = boxes.new_tensor([columns / width, rows / height])
    low, high = boxes[..., :2] * scale - 1, boxes[..., 2:] * scale  # against the left edge of a cell: centre - 0.5
    x = torch.arange(columns, device=boxes.device, dtype=boxes.dtype)
    y = torch.arange(rows, device=boxes.device, dtype=boxes.dtype)
    in_x = (x > low[..., 0:1]) & (x < high[..., 0:1])
    in_y = (y > low[..., 1:2]) & (y < high[..., 1:2])
    return in_y[..., :, None] & in_x[..., None, :]


def points_in_boxes(relative: Tensor, boxes: Tensor) -> Tensor:
    """Convert points (..., J, 2) relative to the centres of boxes (..., 4) in units of their sizes to pixels."""
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    return (low + high) / 2 + relative * (high - low)
