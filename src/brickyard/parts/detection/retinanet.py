"""RetinaNet: nine anchors a cell, a focal loss, no second stage.

Lin et al. 2017, https://arxiv.org/abs/1708.02002; loss and decoding are those of torchvision's `RetinaNet`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from brickyard.parts.detection.boxes import decode_deltas, encode_deltas, overlaps
from brickyard.parts.detection.decode import SuppressingDecode
from brickyard.parts.detection.neck import DetectionNeck
from brickyard.parts.detection.points import anchors_around, cell_centers
from brickyard.parts.detection.targets import all_labelled, matched, one_hot

FINEST = 8  # the stride of the first map
_SCALE = 4  # the side of the smallest anchor in cells
_RATIOS, _STEPS = (0.5, 1.0, 2.0), 3  # heights to widths, and sizes before the next map takes over
_BETWEEN = -2  # an anchor that is neither a box nor background


@final
class RetinaNet(nn.Module):
    """A feature pyramid and torchvision's `RetinaNetHead`, shared by all its maps.

    Args:
        channels: Of the backbone's maps, whose strides grow.
        strides: Of the backbone's maps.
        num_classes: K.
        width: Channels of the pyramid and of the head, divisible by 32.

    Attributes:
        strides: Of the pyramid's maps.

    Shape: maps (B, C_i, H / s_i, W / s_i) and the image (B, C, H, W) -> logits (B, P, K); regression (B, P, 4), see
    `encode_deltas`; anchors (B, P, 4), of 4 to 8 cells.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.neck = DetectionNeck(channels, strides, width, finest=FINEST)
        self.strides = self.neck.strides
        self.head = RetinaNetHead(
            width, num_anchors=len(_RATIOS) * _STEPS, num_classes=num_classes, norm_layer=partial(nn.GroupNorm, 32)
        )

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.neck(features)
        outputs = self.head(maps)
        centers = cell_centers(maps, self.strides, image.shape[-2:], self.neck.own)
        anchors = anchors_around(centers, [_shapes(stride) for stride in self.strides])
        logits = outputs["cls_logits"]
        return logits, outputs["bbox_regression"], anchors.expand(logits.shape[0], -1, -1)


@final
class RetinaNetLoss(nn.Module):
    """Focal loss of the classes and L1 loss of the deltas.

    In value and gradient torchvision's `RetinaNet.compute_loss`, on padded targets and without a loop over pictures.

    Args:
        foreground: An anchor that overlaps a box as much belongs to it; so do, whatever they overlap, the anchors that
            overlap a box most.
        background: An anchor that overlaps every box less is background; between the two it is left out.
    """

    def __init__(self, foreground: float = 0.5, background: float = 0.4) -> None:
        super().__init__()
        self.foreground = foreground
        self.background = background

    def forward(
        self,
        logits: Tensor,
        regression: Tensor,
        anchors: Tensor,
        boxes: Tensor,
        labels: Tensor,
        labelled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss and its parts.

        Args:
            logits: (B, P, K), like the next two an output of `RetinaNet`.
            regression: (B, P, 4).
            anchors: (B, P, 4).
            boxes: (B, M, 4), padded.
            labels: (B, M) int64, -1 where padded.
            labelled: (B,) bool; pictures without label add nothing and get no gradient.

        Returns:
            The sum; the losses of classes and boxes. Each is divided by the number of anchors with a box, picture by
            picture, and is the mean over pictures.
        """
        logits, regression, cells = logits.float(), regression.float(), anchors[0]
        rows = all_labelled(labelled, logits)
        match = self.match(cells, boxes, labels)
        own, classes = matched(boxes, labels, match, cells)
        found = classes >= 0
        count = found.sum(dim=1).clamp(min=1)
        by_class = sigmoid_focal_loss(logits, one_hot(classes, logits)).sum(dim=2)
        by_box = (regression - encode_deltas(own, cells)).abs().sum(dim=2)
        pictures = rows.sum().clamp(min=1)
        use_class, use_box = (match != _BETWEEN) & rows[:, None], found & rows[:, None]
        loss_cls = (torch.where(use_class, by_class, 0).sum(dim=1) / count).sum() / pictures
        loss_box = (torch.where(use_box, by_box, 0).sum(dim=1) / count).sum() / pictures
        return loss_cls + loss_box, loss_cls, loss_box

    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """The box of each anchor, (B, P): an index into M, -1 for background, -2 for neither."""
        there = (labels >= 0)[..., None]
        overlap = torch.where(there, overlaps(boxes, anchors), -1)
        most, index = overlap.max(dim=1)
        best = overlap.amax(dim=2, keepdim=True)
        nearest = ((overlap == best) & (best > 0)).any(dim=1)
        apart = torch.where(most < self.background, -1, _BETWEEN)
        return torch.where(nearest | (most >= self.foreground), index, apart)


@final
class RetinaNetDecode(SuppressingDecode):
    """What `RetinaNet` writes -> detections; the thresholds are torchvision's. See `detections`.

    Args:
        score_threshold: Of the class probability.
        iou_threshold: Of non-maximum suppression.
        candidates: How many of the best scores of a picture take part.
        count: N.
    """

    def __init__(
        self, score_threshold: float = 0.05, iou_threshold: float = 0.5, candidates: int = 1000, count: int = 100
    ) -> None:
        super().__init__(score_threshold, iou_threshold, candidates, count)

    def forward(
        self, logits: Tensor, regression: Tensor, anchors: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.suppressed(
            logits.float().sigmoid(),
            decode_deltas(regression.float(), anchors),
            image,
        )


def _shapes(stride: int) -> list[tuple[float, float]]:
    """The widths and heights of a cell's anchors: three sizes for each ratio, of one area each."""
    sizes = [_SCALE * stride * 2 ** (step / _STEPS) for step in range(_STEPS)]
    return [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in _RATIOS for size in sizes]
