"""RetinaNet: one-stage detection with nine anchors per cell and a focal loss.

Lin et al. 2017, https://arxiv.org/abs/1708.02002. Loss and decoding are those of torchvision's `RetinaNet`.
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

from brickyard.parts.detection.boxes import decode_deltas, encode_deltas, pairwise_iou
from brickyard.parts.detection.decode import NMSDecode
from brickyard.parts.detection.neck import DetectionNeck
from brickyard.parts.detection.points import create_anchors
from brickyard.parts.detection.targets import gather_matches, ignored_anchors, labelled_mask, one_hot
from brickyard.parts.detection.torchvision_heads import head_outputs

FINEST = 8  # the stride of the finest map
_SCALE = 4  # the side of the smallest anchor, in cells
_RATIOS, _STEPS = (0.5, 1.0, 2.0), 3  # aspect ratios (height / width), and sizes per octave
_BETWEEN = -2  # an anchor that is neither foreground nor background


@final
class RetinaNet(nn.Module):
    """RetinaNet detector: a feature pyramid, and torchvision's `RetinaNetHead` shared by all its maps.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        num_classes: K.
        width: The channels of the pyramid and the head, divisible by 32.
        torchvision_anchors: Whether the anchors are those of torchvision, see `points.torchvision_anchors`, with sides
            of an integer number of pixels, for heads that were trained with them.
        extra_from_backbone: See `DetectionNeck`.
        norm: Whether the convolutions of the head are followed by group norm.

    Attributes:
        strides: The strides of the pyramid's maps.

    Shape: maps (B, C_i, H / s_i, W / s_i) and image (B, C, H, W) -> logits (B, P, K); regression (B, P, 4), see
    `encode_deltas`; anchors (B, P, 4), with sides of 4 to 8 cells.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 64,
        torchvision_anchors: bool = False,
        extra_from_backbone: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.torchvision_anchors = torchvision_anchors
        self.neck = DetectionNeck(channels, strides, width, FINEST, extra_from_backbone)
        self.strides = self.neck.strides
        self.head = RetinaNetHead(
            width,
            num_anchors=len(_RATIOS) * _STEPS,
            num_classes=num_classes,
            norm_layer=partial(nn.GroupNorm, 32) if norm else None,
        )

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.neck(features)
        outputs = head_outputs(self.head, maps)
        shapes = [_shapes(stride, whole=self.torchvision_anchors) for stride in self.strides]
        sizes = self.strides, image.shape[-2:], self.neck.num_backbone_maps
        anchors = create_anchors(maps, *sizes, shapes, as_torchvision=self.torchvision_anchors)
        logits = outputs["cls_logits"]
        return logits, outputs["bbox_regression"], anchors.expand(logits.shape[0], -1, -1)


@final
class RetinaNetLoss(nn.Module):
    """Focal loss of the classes and L1 loss of the deltas.

    Equal to torchvision's `RetinaNet.compute_loss` in value and gradient, but on padded targets and without a loop over
    images.

    Args:
        foreground: The minimum IoU of an anchor with its box. The anchors with the highest IoU with a box are assigned
            to it in any case.
        background: Anchors with a lower IoU with every box are background; those in between are ignored.
    """

    def __init__(self, foreground: float = 0.5, background: float = 0.4) -> None:
        super().__init__()
        self.foreground = foreground
        self.background = background

    def extra_repr(self) -> str:
        return "focal loss of classes + L1 loss of boxes"

    def forward(
        self,
        logits: Tensor,
        regression: Tensor,
        anchors: Tensor,
        boxes: Tensor,
        labels: Tensor,
        labelled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the total loss and its terms.

        Args:
            logits: (B, P, K); this and the next two are outputs of `RetinaNet`.
            regression: (B, P, 4).
            anchors: (B, P, 4).
            boxes: (B, M, 4), padded target boxes.
            labels: (B, M) int64, -1 for padding; below -1 for boxes to ignore, see `PadBoxes`.
            labelled: (B,) bool; unlabelled images have no loss and no gradient. None for all labelled.

        Returns:
            The total, classification and box loss. Each is divided by the number of anchors with a box per image, and
            averaged over the images.
        """
        logits, regression, cells = logits.float(), regression.float(), anchors[0]
        rows = labelled_mask(labelled, logits)
        match = self.match(cells, boxes, labels)
        matched_boxes, classes = gather_matches(boxes, labels, match, cells)
        foreground = classes >= 0
        count = foreground.sum(dim=1).clamp(min=1)
        class_losses = sigmoid_focal_loss(logits, one_hot(classes, logits)).sum(dim=2)
        box_losses = (regression - encode_deltas(matched_boxes, cells)).abs().sum(dim=2)
        images = rows.sum().clamp(min=1)
        use_class, use_box = (match != _BETWEEN) & rows[:, None], foreground & rows[:, None]
        loss_cls = (torch.where(use_class, class_losses, 0).sum(dim=1) / count).sum() / images
        loss_box = (torch.where(use_box, box_losses, 0).sum(dim=1) / count).sum() / images
        return loss_cls + loss_box, loss_cls, loss_box

    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Assign a box to each anchor: (B, P), an index into M, -1 for background, -2 for ignored."""
        is_target = (labels >= 0)[..., None]
        iou = torch.where(is_target, pairwise_iou(boxes, anchors), -1)
        highest, index = iou.max(dim=1)
        best = iou.amax(dim=2, keepdim=True)
        is_best_anchor = ((iou == best) & (best > 0)).any(dim=1)
        is_background = (highest < self.background) & ~ignored_anchors(anchors, boxes, labels)
        unmatched = torch.where(is_background, -1, _BETWEEN)
        return torch.where(is_best_anchor | (highest >= self.foreground), index, unmatched)


@final
class RetinaNetDecode(NMSDecode):
    """Decode the outputs of `RetinaNet` to detections, see `batched_nms`. The default thresholds are torchvision's.

    Args:
        score_threshold: The minimum class probability.
        iou_threshold: The IoU threshold of non-maximum suppression.
        candidates: The number of highest scores per image that take part.
        count: N, the number of detections per image.
        class_agnostic: Whether a box suppresses boxes of every class, so that an object gets one label.
        strides: See `NMSDecode`.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 1000,
        count: int = 100,
        class_agnostic: bool = False,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__(score_threshold, iou_threshold, candidates, count, class_agnostic, strides)

    def forward(
        self, logits: Tensor, regression: Tensor, anchors: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.select(
            logits.float().sigmoid(),
            decode_deltas(regression.float(), anchors),
            image,
        )


def _shapes(stride: int, whole: bool = False) -> list[tuple[float, float]]:
    """Compute the widths and heights of a cell's anchors: three areas for each aspect ratio.

    Args:
        stride: The stride of the map.
        whole: Whether the roots of the areas are rounded down to integers.
    """
    sizes = [_SCALE * stride * 2 ** (step / _STEPS) for step in range(_STEPS)]
    sizes = [float(int(size)) for size in sizes] if whole else sizes
    return [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in _RATIOS for size in sizes]
