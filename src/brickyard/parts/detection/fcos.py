"""FCOS: anchor-free detection with one point per cell, distances to the sides of its box and a centerness score.

Tian et al. 2019, https://arxiv.org/abs/1904.01355, with the improvements of https://arxiv.org/abs/2006.09214. Loss and
decoding are those of torchvision's `FCOS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from brickyard.parts.detection.boxes import area_of, decode_distances
from brickyard.parts.detection.decode import NMSDecode
from brickyard.parts.detection.neck import DetectionNeck
from brickyard.parts.detection.points import create_anchors
from brickyard.parts.detection.targets import gather_matches, ignored_anchors, labelled_mask, one_hot
from brickyard.parts.detection.torchvision_heads import head_outputs

FINEST = 8  # the stride of the finest map
_INITIAL_DISTANCE = 2.0  # cells from a point to the sides of its box: within the range that a map is responsible for


@final
class FCOS(nn.Module):
    """FCOS detector: a feature pyramid, and torchvision's `FCOSHead` shared by all its maps.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        num_classes: K.
        width: The channels of the pyramid and the head, divisible by 32.
        torchvision_anchors: Whether the cells are those of torchvision, see `points.torchvision_anchors`, for heads
            that were trained with them.

    Attributes:
        strides: The strides of the pyramid's maps.

    Shape: maps (B, C_i, H / s_i, W / s_i) and image (B, C, H, W) -> logits (B, P, K); regression (B, P, 4), distances
    to the left, top, right and bottom in units of the cell size; centerness (B, P, 1), logits; anchors (B, P, 4), the
    cells.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 64,
        torchvision_anchors: bool = False,
    ) -> None:
        super().__init__()
        self.torchvision_anchors = torchvision_anchors
        self.neck = DetectionNeck(channels, strides, width, finest=FINEST)
        self.strides = self.neck.strides
        self.head = FCOSHead(width, num_anchors=1, num_classes=num_classes)
        # torchvision initialises the distances around 0, where half of the following ReLUs have no gradient.
        nn.init.constant_(self.head.regression_head.bbox_reg.bias, _INITIAL_DISTANCE)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.neck(features)
        outputs = head_outputs(self.head, maps)
        shapes = [[(stride, stride)] for stride in self.strides]
        sizes = self.strides, image.shape[-2:], self.neck.num_backbone_maps
        anchors = create_anchors(maps, *sizes, shapes, as_torchvision=self.torchvision_anchors)
        logits = outputs["cls_logits"]
        anchors = anchors.expand(logits.shape[0], -1, -1)
        return logits, outputs["bbox_regression"], outputs["bbox_ctrness"], anchors


@final
class FCOSLoss(nn.Module):
    """Focal loss of the classes, generalised IoU loss of the boxes and binary cross-entropy of the centerness.

    Equal to torchvision's `FCOS.compute_loss` in value and gradient, but on padded targets and without a loop over
    images. A box is assigned to the points near its centre on the map responsible for its size. A point with several
    boxes takes the smallest.

    Args:
        strides: The strides of the pyramid's maps.
        radius: The maximum distance of points from the centre of their box, in cells.
    """

    def __init__(self, strides: Sequence[int], radius: float = 1.5) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.radius = radius

    def extra_repr(self) -> str:
        return "focal loss of classes + GIoU loss of boxes + binary cross-entropy of centerness"

    def forward(
        self,
        logits: Tensor,
        regression: Tensor,
        centerness: Tensor,
        anchors: Tensor,
        boxes: Tensor,
        labels: Tensor,
        labelled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the total loss and its terms.

        Args:
            logits: (B, P, K); this and the next three are outputs of `FCOS`.
            regression: (B, P, 4).
            centerness: (B, P, 1).
            anchors: (B, P, 4).
            boxes: (B, M, 4), padded target boxes.
            labels: (B, M) int64, -1 for padding; below -1 for boxes to ignore, see `PadBoxes`.
            labelled: (B,) bool; unlabelled images have no loss and no gradient. None for all labelled.

        Returns:
            The total, classification, box and centerness loss, each divided by the number of points with a box.
        """
        logits, regression, centerness = logits.float(), regression.float(), centerness.float().squeeze(2)
        cells = anchors[0]
        rows = labelled_mask(labelled, logits)[:, None]
        matched_boxes, classes = gather_matches(boxes, labels, self.match(cells, boxes, labels), cells)
        foreground = (classes >= 0) & rows
        scored = foreground | (rows & ~ignored_anchors(cells, boxes, labels))
        count = foreground.sum().clamp(min=1)
        class_losses = sigmoid_focal_loss(logits, one_hot(classes, logits)).sum(dim=2)
        box_losses = generalized_box_iou_loss(decode_distances(regression, cells), matched_boxes)
        centerness_losses = binary_cross_entropy_with_logits(
            centerness, centerness_in(matched_boxes, cells), reduction="none"
        )
        loss_cls = torch.where(scored, class_losses, 0).sum() / count
        loss_box = torch.where(foreground, box_losses, 0).sum() / count
        loss_centerness = torch.where(foreground, centerness_losses, 0).sum() / count
        return loss_cls + loss_box + loss_centerness, loss_cls, loss_box, loss_centerness

    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Assign a box to each point: (B, P), an index into M, or -1 for background."""
        center = ((anchors[:, :2] + anchors[:, 2:]) / 2)[:, None]
        size = anchors[:, 2] - anchors[:, 0]
        lower, upper = self._ranges(size)
        boxes = boxes[:, None]  # (B, 1, M, 4) against (P, 1, 2)
        sides = torch.cat([center - boxes[..., :2], boxes[..., 2:] - center], dim=-1)
        from_center = (center - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(dim=-1)
        farthest = sides.amax(dim=-1)
        matches = (
            (from_center < self.radius * size[:, None])
            & (sides.amin(dim=-1) > 0)
            & (farthest > lower[:, None])
            & (farthest < upper[:, None])
            & (labels >= 0)[:, None]
        )
        # As in torchvision, including its rounding: areas that differ by less than eight pixels tie.
        smallness, index = (matches * (1e8 - area_of(boxes))).max(dim=2)
        return torch.where(smallness < 1e-5, -1, index)

    def _ranges(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the range of distances to the farthest side that each point is responsible for, from its cell size.

        It is four to eight cells if strides double. The upper bound is the lower bound of the next map, so that the
        ranges have no gaps for other strides.
        """
        lower = torch.where(size > self.strides[0], size * 4, 0)
        upper = torch.full_like(size, float("inf"))
        for stride, coarser in zip(self.strides[:-1], self.strides[1:], strict=True):
            upper = torch.where(size == stride, 4.0 * coarser, upper)
        return lower, upper


@final
class FCOSDecode(NMSDecode):
    """Decode the outputs of `FCOS` to detections, see `batched_nms`. The default thresholds are torchvision's.

    Args:
        score_threshold: The minimum geometric mean of class probability and centerness.
        iou_threshold: The IoU threshold of non-maximum suppression.
        candidates: The number of highest scores per image that take part.
        count: N, the number of detections per image.
        class_agnostic: Whether a box suppresses boxes of every class, so that an object gets one label.
        strides: See `NMSDecode`.
    """

    def __init__(
        self,
        score_threshold: float = 0.2,
        iou_threshold: float = 0.6,
        candidates: int = 1000,
        count: int = 100,
        class_agnostic: bool = False,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__(score_threshold, iou_threshold, candidates, count, class_agnostic, strides)

    def forward(
        self, logits: Tensor, regression: Tensor, centerness: Tensor, anchors: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.select(
            torch.sqrt(logits.float().sigmoid() * centerness.float().sigmoid()),
            decode_distances(regression.float(), anchors),
            image,
        )


def centerness_in(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Compute the centerness of anchors (P, 4) in boxes (B, P, 4): 1 at the centre, 0 at the edge; (B, P)."""
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, after = center - boxes[..., :2], boxes[..., 2:] - center
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(dim=-1).sqrt()
