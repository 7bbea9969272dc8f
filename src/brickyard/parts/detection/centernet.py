"""CenterNet: detection of boxes as peaks of a heatmap with sizes and offsets, without anchors and NMS.

Zhou et al. 2019, https://arxiv.org/abs/1904.07850, with a feature pyramid instead of the paper's hourglass network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from brickyard.parts.detection.boxes import clip
from brickyard.parts.detection.heatmap import (
    PRIOR_BIAS,
    cell_map,
    gather_cells,
    heatmap_loss,
    nearest_cells,
    top_peaks,
)
from brickyard.parts.detection.points import levels_from
from brickyard.parts.detection.targets import labelled_mask

FINEST = 4  # the stride of the heatmap
_SIZE_WEIGHT = 0.1  # the weight of the size loss; those of the heatmap and offset losses are 1


@final
class CenterNet(nn.Module):
    """CenterNet detector: a feature pyramid, and three small heads on its finest map.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        num_classes: K.
        width: The channels of the pyramid and the heads.

    Attributes:
        strides: The stride of the heatmap, as a tuple of one.

    Shape: maps (B, C_i, H / s_i, W / s_i) and image (B, C, H, W) -> heatmap (B, K, h, w), logits; sizes (B, 2, h, w),
    widths and heights in pixels; offsets (B, 2, h, w), from the centre of the cell, in pixels; points (B, 2, h, w), x
    and y of the centre of the cell, in pixels.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.levels = levels_from(strides, FINEST)
        self.strides = (strides[self.levels[0]],)
        self.fpn = FeaturePyramidNetwork([channels[level] for level in self.levels], width)
        for level in range(1, len(self.levels)):  # only the finest map is used
            self.fpn.layer_blocks[level] = nn.Identity()
        self.heatmap = _branch(width, num_classes, bias=PRIOR_BIAS)
        self.size, self.offset = _branch(width, 2), _branch(width, 2)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        finest = self.fpn({str(level): features[level] for level in self.levels})[str(self.levels[0])]
        stride = self.strides[0]
        points = cell_map(finest, stride, image)
        return self.heatmap(finest), self.size(finest) * stride, self.offset(finest) * stride, points


@final
class CenterNetLoss(nn.Module):
    """Penalty-reduced focal loss of the heatmap, and L1 losses of the sizes and offsets at the centres.

    The target heatmap has a Gaussian around each centre, see `heatmap_loss`.

    Args:
        strides: The stride of the heatmap, as a sequence of one.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.stride = strides[0]

    def extra_repr(self) -> str:
        return f"focal loss of the heatmap + {_SIZE_WEIGHT} * L1 loss of sizes + L1 loss of offsets"

    def forward(
        self,
        heatmap: Tensor,
        sizes: Tensor,
        offsets: Tensor,
        points: Tensor,
        boxes: Tensor,
        labels: Tensor,
        labelled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the total loss and its terms.

        Args:
            heatmap: (B, K, h, w); this and the next three are outputs of `CenterNet`.
            sizes: (B, 2, h, w).
            offsets: (B, 2, h, w).
            points: (B, 2, h, w).
            boxes: (B, M, 4), padded target boxes.
            labels: (B, M) int64, -1 for padding; below -1 for boxes to ignore, see `PadBoxes`.
            labelled: (B,) bool; unlabelled images have no loss and no gradient. None for all labelled.

        Returns:
            The total, heatmap, size (in cells, weighted) and offset loss (in cells), each divided by the number of
            boxes.
        """
        rows = labelled_mask(labelled, heatmap.flatten(2))
        is_target = (labels >= 0) & rows[:, None]
        count = is_target.sum().clamp(min=1)
        center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        loss_cls = heatmap_loss(heatmap, points, boxes, labels, rows, self.stride) / count
        column, row = nearest_cells(center, points, self.stride)
        cell = row * heatmap.shape[-1] + column
        size_losses = (gather_cells(sizes, cell) - size).abs().sum(dim=2) / self.stride
        offset_losses = (gather_cells(offsets, cell) - (center - gather_cells(points, cell))).abs().sum(
            dim=2
        ) / self.stride
        loss_box = torch.where(is_target, size_losses, 0).sum() / count * _SIZE_WEIGHT
        loss_offset = torch.where(is_target, offset_losses, 0).sum() / count
        return loss_cls + loss_box + loss_offset, loss_cls, loss_box, loss_offset


@final
class CenterNetDecode(nn.Module):
    """Decode the outputs of `CenterNet` to detections: the highest cells that are local maxima of the heatmap.

    Args:
        score_threshold: The minimum class probability.
        count: N, the number of detections per image.
        class_agnostic: Whether maxima are taken over all classes, so that an object gets one label.
    """

    def __init__(self, score_threshold: float = 0.05, count: int = 100, class_agnostic: bool = False) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.count = count
        self.class_agnostic = class_agnostic

    def extra_repr(self) -> str:
        names = ("score_threshold", "count", "class_agnostic")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def forward(
        self, heatmap: Tensor, sizes: Tensor, offsets: Tensor, points: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode a batch; inputs are outputs of `CenterNet`, return values are those of `batched_nms`."""
        best, labels, cell = top_peaks(heatmap, self.score_threshold, self.count, class_agnostic=self.class_agnostic)
        center = gather_cells(points, cell) + gather_cells(offsets, cell)
        half = gather_cells(sizes, cell).clamp(min=0) / 2
        boxes = clip(torch.cat([center - half, center + half], dim=-1), image.shape[-2:])
        return boxes * (labels >= 0)[..., None], best, labels


def _branch(width: int, out: int, bias: float = 0.0) -> nn.Sequential:
    last = nn.Conv2d(width, out, 1)
    if last.bias is not None:
        nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), last)
