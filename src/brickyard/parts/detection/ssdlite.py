"""SSDLite: default boxes directly on the backbone's feature maps, with depthwise convolutions.

Liu et al. 2016, https://arxiv.org/abs/1512.02325, and Sandler et al. 2018, https://arxiv.org/abs/1801.04381. Loss and
decoding are those of torchvision's `SSD`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops.misc import Conv2dNormActivation

from brickyard.parts.detection.boxes import decode_deltas, encode_deltas, pairwise_iou
from brickyard.parts.detection.decode import NMSDecode
from brickyard.parts.detection.points import create_anchors, levels_from
from brickyard.parts.detection.targets import gather_matches, ignored_anchors, labelled_mask
from brickyard.parts.detection.torchvision_heads import head_outputs

FINEST = 16  # the stride of the finest map
_EXTRA = 2  # the number of maps added to the backbone's
_SCALE = 4  # the side of the smallest default box, in cells
_RATIOS = (2.0, 0.5, 3.0, 1 / 3)  # aspect ratios (width / height), in addition to two squares
_DELTA_WEIGHTS = (10.0, 5.0)  # factors of the shifts and log scales of `encode_deltas`


@final
class SSDLite(nn.Module):
    """SSDLite detector: torchvision's `SSDLiteHead` on the backbone's maps and two additional coarser maps.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        num_classes: K.
        width: The channels of the additional maps.

    Attributes:
        strides: The strides of the maps that the head is applied to.

    Shape: maps (B, C_i, H / s_i, W / s_i) and image (B, C, H, W) -> logits (B, P, K + 1), with the background as class
    0; regression (B, P, 4), `encode_deltas` with shifts times 10 and log scales times 5; anchors (B, P, 4), six per
    cell, with sides of 4 to 8 cells. Batch norm cannot train on a single image whose coarsest map is one cell.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        # Not torchvision's momentum of 0.03, with which the statistics lag behind the weights in short trainings.
        norm = partial(nn.BatchNorm2d, eps=0.001)
        self.levels = levels_from(strides, FINEST)
        backbone_strides = [strides[level] for level in self.levels]
        widths = [*(channels[level] for level in self.levels), *[width] * _EXTRA]
        self.strides = (*backbone_strides, *(backbone_strides[-1] * 2**step for step in range(1, _EXTRA + 1)))
        extra_inputs = [channels[self.levels[-1]], *[width] * (_EXTRA - 1)]
        self.extra = nn.ModuleList(_downsample(in_channels, width, norm) for in_channels in extra_inputs)
        self.head = SSDLiteHead(widths, [2 + len(_RATIOS)] * len(widths), num_classes + 1, norm)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = [features[level] for level in self.levels]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        outputs = head_outputs(self.head, maps)
        shapes = [_shapes(stride) for stride in self.strides]
        anchors = create_anchors(maps, self.strides, image.shape[-2:], len(self.levels), shapes)
        logits = outputs["cls_logits"]
        return logits, outputs["bbox_regression"], anchors.expand(logits.shape[0], -1, -1)


@final
class SSDLiteLoss(nn.Module):
    """Cross-entropy of the classes with hard negative mining, and smooth L1 loss of the deltas.

    Equal to torchvision's `SSD.compute_loss` in value and gradient, but on padded targets and without a loop over
    images.

    Args:
        foreground: The minimum IoU of an anchor with its box. The anchor with the highest IoU with a box is assigned to
            it in any case.
        negatives: The number of background anchors per anchor with a box, those with the highest loss.
    """

    def __init__(self, foreground: float = 0.5, negatives: int = 3) -> None:
        super().__init__()
        self.foreground = foreground
        self.negatives = negatives

    def extra_repr(self) -> str:
        return f"cross-entropy of classes, {self.negatives} negatives per positive + smooth L1 loss of boxes"

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
            logits: (B, P, K + 1); this and the next two are outputs of `SSDLite`.
            regression: (B, P, 4).
            anchors: (B, P, 4).
            boxes: (B, M, 4), padded target boxes.
            labels: (B, M) int64, -1 for padding; below -1 for boxes to ignore, see `PadBoxes`.
            labelled: (B,) bool; unlabelled images have no loss and no gradient. None for all labelled.

        Returns:
            The total, classification and box loss, each divided by the number of anchors with a box.
        """
        logits, regression, cells = logits.float(), regression.float(), anchors[0]
        matched_boxes, classes = gather_matches(boxes, labels, self.match(cells, boxes, labels), cells)
        foreground = (classes >= 0) & labelled_mask(labelled, logits)[:, None]
        count = foreground.sum().clamp(min=1)
        class_losses = functional.cross_entropy(logits.transpose(1, 2), classes + 1, reduction="none")
        no_background = foreground | ignored_anchors(cells, boxes, labels)
        background_losses = class_losses.detach().masked_fill(no_background, -math.inf)
        rank = background_losses.argsort(dim=1, descending=True).argsort(dim=1)
        used = foreground | ((rank < self.negatives * foreground.sum(dim=1, keepdim=True)) & ~no_background)
        deltas = _scaled(encode_deltas(matched_boxes, cells))
        box_losses = functional.smooth_l1_loss(regression, deltas, reduction="none").sum(dim=2)
        loss_cls = torch.where(used, class_losses, 0).sum() / count
        loss_box = torch.where(foreground, box_losses, 0).sum() / count
        return loss_cls + loss_box, loss_cls, loss_box

    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Assign a box to each anchor: (B, P), an index into M, or -1 for background."""
        is_target = labels >= 0
        iou = torch.where(is_target[..., None], pairwise_iou(boxes, anchors), -1)
        highest, index = iou.max(dim=1)
        index = torch.where(highest < self.foreground, -1, index)
        # Padded boxes scatter to an extra column, which is dropped.
        target = torch.where(is_target, iou.argmax(dim=2), anchors.shape[0])
        rows = torch.arange(boxes.shape[1], device=boxes.device).expand_as(labels)
        return functional.pad(index, (0, 1)).scatter(1, target, rows)[:, :-1]


@final
class SSDLiteDecode(NMSDecode):
    """Decode the outputs of `SSDLite` to detections, see `batched_nms`. The default thresholds are torchvision's.

    Args:
        score_threshold: The minimum class probability.
        iou_threshold: The IoU threshold of non-maximum suppression.
        candidates: The number of highest scores per image that take part.
        count: N, the number of detections per image.
        class_agnostic: Whether a box suppresses boxes of every class, so that an object gets one label.
    """

    def __init__(
        self,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.55,
        candidates: int = 1000,
        count: int = 100,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__(score_threshold, iou_threshold, candidates, count, class_agnostic)

    def forward(
        self, logits: Tensor, regression: Tensor, anchors: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        shift, scale = regression.float().chunk(2, dim=-1)
        deltas = torch.cat([shift / _DELTA_WEIGHTS[0], scale / _DELTA_WEIGHTS[1]], dim=-1)
        return self.select(
            logits.float().softmax(dim=2)[..., 1:],
            decode_deltas(deltas, anchors),
            image,
        )


def _scaled(deltas: Tensor) -> Tensor:
    shift, scale = deltas.chunk(2, dim=-1)
    return torch.cat([shift * _DELTA_WEIGHTS[0], scale * _DELTA_WEIGHTS[1]], dim=-1)


def _downsample(channels: int, width: int, norm: partial[nn.BatchNorm2d]) -> nn.Sequential:
    """Create torchvision's extra block of SSDLite: squeeze, depthwise convolution with stride 2, expand."""
    layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    half = width // 2
    return nn.Sequential(
        layer(channels, half, kernel_size=1),
        layer(half, half, kernel_size=3, stride=2, groups=half),
        layer(half, width, kernel_size=1),
    )


def _shapes(stride: int) -> list[tuple[float, float]]:
    """Compute the widths and heights of a cell's default boxes: two squares, and the smaller square in other ratios.

    As in the paper, the second square is between the sizes of this map and the next. Sizes are proportional to the
    stride instead of the image, so that a head works on images of any size.
    """
    size = float(_SCALE * stride)
    between = size * math.sqrt(2)
    rectangles = [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in _RATIOS]
    return [(size, size), (between, between), *rectangles]
