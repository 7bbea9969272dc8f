"""SSDLite: default boxes on the backbone's own maps, with depthwise convolutions.

Liu et al. 2016, https://arxiv.org/abs/1512.02325, and Sandler et al. 2018, https://arxiv.org/abs/1801.04381; loss and
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

from brickyard.parts.detection.boxes import decode_deltas, encode_deltas, overlaps
from brickyard.parts.detection.decode import SuppressingDecode
from brickyard.parts.detection.points import anchors_around, cell_centers, levels_from
from brickyard.parts.detection.targets import all_labelled, matched

FINEST = 16  # the stride of the first map
_EXTRA = 2  # maps that are added to the backbone's
_SCALE = 4  # the side of the smallest default box in cells
_RATIOS = (2.0, 0.5, 3.0, 1 / 3)  # widths to heights, besides the two squares
_VARIANCES = (10.0, 5.0)  # how much finer shifts and log scales are regressed than those of `encode_deltas`


@final
class SSDLite(nn.Module):
    """torchvision's `SSDLiteHead` on the backbone's maps and on two coarser ones.

    Args:
        channels: Of the backbone's maps, whose strides grow.
        strides: Of the backbone's maps.
        num_classes: K.
        width: Channels of the added maps.

    Attributes:
        strides: Of the maps that the head reads.

    Shape: maps (B, C_i, H / s_i, W / s_i) and the image (B, C, H, W) -> logits (B, P, K + 1), the background first;
    regression (B, P, 4), `encode_deltas` times 10 and 5; anchors (B, P, 4), six a cell, of 4 to 8 cells. Its batch
    normalisation cannot train on one picture that is so small that the coarsest map is a single cell.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        # torchvision's momentum of 0.03 leaves the statistics of a short training far behind the weights.
        norm = partial(nn.BatchNorm2d, eps=0.001)
        self.levels = levels_from(strides, FINEST)
        own_strides, own = [strides[level] for level in self.levels], [channels[level] for level in self.levels]
        self.strides = (*own_strides, *(own_strides[-1] * 2**step for step in range(1, _EXTRA + 1)))
        self.extra = nn.ModuleList(_coarser(own[-1] if step == 0 else width, width, norm) for step in range(_EXTRA))
        widths = [*own, *[width] * _EXTRA]
        self.head = SSDLiteHead(widths, [2 + len(_RATIOS)] * len(widths), num_classes + 1, norm)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = [features[level] for level in self.levels]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        outputs = self.head(maps)
        centers = cell_centers(maps, self.strides, image.shape[-2:], len(self.levels))
        anchors = anchors_around(centers, [_shapes(stride) for stride in self.strides])
        logits = outputs["cls_logits"]
        return logits, outputs["bbox_regression"], anchors.expand(logits.shape[0], -1, -1)


@final
class SSDLiteLoss(nn.Module):
    """Cross entropy of the classes with three hard negatives for each box, and smooth L1 loss of the deltas.

    In value and gradient torchvision's `SSD.compute_loss`, on padded targets and without a loop over pictures.

    Args:
        foreground: An anchor that overlaps a box as much belongs to it; so does, whatever it overlaps, the anchor that
            overlaps a box most.
        negatives: How many background anchors count for each that has a box, those that are the most wrong.
    """

    def __init__(self, foreground: float = 0.5, negatives: int = 3) -> None:
        super().__init__()
        self.foreground = foreground
        self.negatives = negatives

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
            logits: (B, P, K + 1), like the next two an output of `SSDLite`.
            regression: (B, P, 4).
            anchors: (B, P, 4).
            boxes: (B, M, 4), padded.
            labels: (B, M) int64, -1 where padded.
            labelled: (B,) bool; pictures without label add nothing and get no gradient.

        Returns:
            The sum; the losses of classes and boxes. Each is divided by the number of anchors that have a box.
        """
        logits, regression, cells = logits.float(), regression.float(), anchors[0]
        own, classes = matched(boxes, labels, self.match(cells, boxes, labels), cells)
        found = (classes >= 0) & all_labelled(labelled, logits)[:, None]
        count = found.sum().clamp(min=1)
        by_class = functional.cross_entropy(logits.transpose(1, 2), classes + 1, reduction="none")
        wrongness = by_class.detach().masked_fill(found, -math.inf)
        rank = wrongness.argsort(dim=1, descending=True).argsort(dim=1)
        used = found | (rank < self.negatives * found.sum(dim=1, keepdim=True))
        by_box = functional.smooth_l1_loss(regression, _scaled(encode_deltas(own, cells)), reduction="none").sum(dim=2)
        loss_cls = torch.where(used, by_class, 0).sum() / count
        loss_box = torch.where(found, by_box, 0).sum() / count
        return loss_cls + loss_box, loss_cls, loss_box

    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """The box of each anchor, (B, P): an index into M, -1 for none."""
        there = labels >= 0
        overlap = torch.where(there[..., None], overlaps(boxes, anchors), -1)
        most, index = overlap.max(dim=1)
        index = torch.where(most < self.foreground, -1, index)
        # A column more takes what padded boxes write.
        target = torch.where(there, overlap.argmax(dim=2), anchors.shape[0])
        rows = torch.arange(boxes.shape[1], device=boxes.device).expand_as(labels)
        return functional.pad(index, (0, 1)).scatter(1, target, rows)[:, :-1]


@final
class SSDLiteDecode(SuppressingDecode):
    """What `SSDLite` writes -> detections; the thresholds are torchvision's for SSDLite. See `detections`.

    Args:
        score_threshold: Of the class probability.
        iou_threshold: Of non-maximum suppression.
        candidates: How many of the best scores of a picture take part.
        count: N.
    """

    def __init__(
        self, score_threshold: float = 0.001, iou_threshold: float = 0.55, candidates: int = 1000, count: int = 100
    ) -> None:
        super().__init__(score_threshold, iou_threshold, candidates, count)

    def forward(
        self, logits: Tensor, regression: Tensor, anchors: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        shift, scale = regression.float().chunk(2, dim=-1)
        deltas = torch.cat([shift / _VARIANCES[0], scale / _VARIANCES[1]], dim=-1)
        return self.suppressed(
            logits.float().softmax(dim=2)[..., 1:],
            decode_deltas(deltas, anchors),
            image,
        )


def _scaled(deltas: Tensor) -> Tensor:
    shift, scale = deltas.chunk(2, dim=-1)
    return torch.cat([shift * _VARIANCES[0], scale * _VARIANCES[1]], dim=-1)


def _coarser(channels: int, width: int, norm: partial[nn.BatchNorm2d]) -> nn.Sequential:
    """Half the resolution, as in torchvision's SSDLite: squeeze, depthwise with stride 2, expand."""
    layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    half = width // 2
    return nn.Sequential(
        layer(channels, half, kernel_size=1),
        layer(half, half, kernel_size=3, stride=2, groups=half),
        layer(half, width, kernel_size=1),
    )


def _shapes(stride: int) -> list[tuple[float, float]]:
    """The widths and heights of a cell's default boxes: two squares, and the smaller one's area in other ratios.

    The second square lies between this map's size and the next one's, as in the paper; the sizes follow the strides and
    not the picture, so that one head serves pictures of any size.
    """
    size = float(_SCALE * stride)
    between = size * math.sqrt(2)
    others = [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in _RATIOS]
    return [(size, size), (between, between), *others]
