"""FCOS: one point a cell, distances to the sides of a box, and how central the point is.

Tian et al. 2019, https://arxiv.org/abs/1904.01355, with the improvements of the authors' later version
(https://arxiv.org/abs/2006.09214); loss and decoding are those of torchvision's `FCOS`.
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
from brickyard.parts.detection.decode import SuppressingDecode
from brickyard.parts.detection.neck import DetectionNeck
from brickyard.parts.detection.points import anchors_around, cell_centers
from brickyard.parts.detection.targets import all_labelled, matched, one_hot

FINEST = 8  # the stride of the first map
_FIRST_DISTANCE = 2.0  # cells from a point to the sides of its box before training: the middle of what a map is for


@final
class FCOS(nn.Module):
    """A feature pyramid and torchvision's `FCOSHead`, shared by all its maps.

    Args:
        channels: Of the backbone's maps, whose strides grow.
        strides: Of the backbone's maps.
        num_classes: K.
        width: Channels of the pyramid and of the head, divisible by 32.

    Attributes:
        strides: Of the pyramid's maps.

    Shape: maps (B, C_i, H / s_i, W / s_i) and the image (B, C, H, W) -> logits (B, P, K); regression (B, P, 4),
    distances to the left, top, right and bottom in units of the cell's size; centerness (B, P, 1), logits; anchors
    (B, P, 4), the cell itself.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.neck = DetectionNeck(channels, strides, width, finest=FINEST)
        self.strides = self.neck.strides
        self.head = FCOSHead(width, num_anchors=1, num_classes=num_classes)
        # torchvision begins with distances around 0, where half of the ReLUs behind are dead and, with a high learning
        # rate, the others follow.
        nn.init.constant_(self.head.regression_head.bbox_reg.bias, _FIRST_DISTANCE)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.neck(features)
        outputs = self.head(maps)
        centers = cell_centers(maps, self.strides, image.shape[-2:], self.neck.own)
        anchors = anchors_around(centers, [[(stride, stride)] for stride in self.strides])
        logits = outputs["cls_logits"]
        anchors = anchors.expand(logits.shape[0], -1, -1)
        return logits, outputs["bbox_regression"], outputs["bbox_ctrness"], anchors


@final
class FCOSLoss(nn.Module):
    """Focal loss of the classes, generalised IoU loss of the boxes, cross entropy of the centerness.

    In value and gradient torchvision's `FCOS.compute_loss`, on padded targets and without a loop over pictures. A box
    belongs to the points near its centre of the map that is for its size; of several boxes, a point takes the smallest.

    Args:
        strides: Of the maps that the anchors come from.
        radius: How near the centre, in cells.
    """

    def __init__(self, strides: Sequence[int], radius: float = 1.5) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.radius = radius

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
        """Compute the loss and its parts.

        Args:
            logits: (B, P, K), like the next three an output of `FCOS`.
            regression: (B, P, 4).
            centerness: (B, P, 1).
            anchors: (B, P, 4).
            boxes: (B, M, 4), padded.
            labels: (B, M) int64, -1 where padded.
            labelled: (B,) bool; pictures without label add nothing and get no gradient.

        Returns:
            The sum; the losses of classes, boxes and centerness. Each is divided by the number of points with a box.
        """
        logits, regression, centerness = logits.float(), regression.float(), centerness.float().squeeze(2)
        cells = anchors[0]
        rows = all_labelled(labelled, logits)[:, None]
        own, classes = matched(boxes, labels, self.match(cells, boxes, labels), cells)
        found = (classes >= 0) & rows
        count = found.sum().clamp(min=1)
        by_class = sigmoid_focal_loss(logits, one_hot(classes, logits)).sum(dim=2)
        by_box = generalized_box_iou_loss(decode_distances(regression, cells), own)
        by_center = binary_cross_entropy_with_logits(centerness, _centerness(own, cells), reduction="none")
        loss_cls = torch.where(rows, by_class, 0).sum() / count
        loss_box = torch.where(found, by_box, 0).sum() / count
        loss_centerness = torch.where(found, by_center, 0).sum() / count
        return loss_cls + loss_box + loss_centerness, loss_cls, loss_box, loss_centerness

    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """The box of each point, (B, P): an index into M, -1 for none."""
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
        # In torchvision's form, for its rounding: areas that differ by less than eight pixels are a tie.
        smallness, index = (matches * (1e8 - area_of(boxes))).max(dim=2)
        return torch.where(smallness < 1e-5, -1, index)

    def _ranges(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """The distances to the farthest side that each point is for, from the size of its cell.

        Four to eight cells, where strides double; the upper bound is the next map's lower one, so that no size of box
        lies between two maps whatever the strides.
        """
        lower = torch.where(size > self.strides[0], size * 4, 0)
        upper = torch.full_like(size, float("inf"))
        for stride, coarser in zip(self.strides[:-1], self.strides[1:], strict=True):
            upper = torch.where(size == stride, 4.0 * coarser, upper)
        return lower, upper


@final
class FCOSDecode(SuppressingDecode):
    """What `FCOS` writes -> detections; the thresholds are torchvision's. See `detections`.

    Args:
        score_threshold: Of the geometric mean of class probability and centerness.
        iou_threshold: Of non-maximum suppression.
        candidates: How many of the best scores of a picture take part.
        count: N.
    """

    def __init__(
        self, score_threshold: float = 0.2, iou_threshold: float = 0.6, candidates: int = 1000, count: int = 100
    ) -> None:
        super().__init__(score_threshold, iou_threshold, candidates, count)

    def forward(
        self, logits: Tensor, regression: Tensor, centerness: Tensor, anchors: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.suppressed(
            torch.sqrt(logits.float().sigmoid() * centerness.float().sigmoid()),
            decode_distances(regression.float(), anchors),
            image,
        )


def _centerness(boxes: Tensor, anchors: Tensor) -> Tensor:
    """1 at the centre of a box, 0 at its edge; boxes (B, P, 4) around the centres of anchors (P, 4)."""
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, after = center - boxes[..., :2], boxes[..., 2:] - center
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(dim=-1).sqrt()
