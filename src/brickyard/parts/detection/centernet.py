"""CenterNet: detection of boxes as peaks of a heatmap with sizes and offsets, without anchors and NMS.

Zhou et al. 2019, https://arxiv.org/abs/1904.07850, with a feature pyramid instead of the paper's hourglass network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

from brickyard.parts.detection.boxes import clip
from brickyard.parts.detection.points import cell_centers, levels_from
from brickyard.parts.detection.targets import ignored_anchors, labelled_mask

FINEST = 4  # the stride of the heatmap
_PRIOR = 0.1  # the initial probability of a centre, as in the paper's code
_MIN_IOU = 0.7  # the minimum IoU of a box shifted by the radius of the Gaussian
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
        self.heatmap = _branch(width, num_classes, bias=-math.log((1 - _PRIOR) / _PRIOR))
        self.size, self.offset = _branch(width, 2), _branch(width, 2)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        finest = self.fpn({str(level): features[level] for level in self.levels})[str(self.levels[0])]
        batch, _, height, width = finest.shape
        points = cell_centers([finest], self.strides, image.shape[-2:], num_backbone_maps=1)[0]
        points = points.T.reshape(2, height, width).expand(batch, -1, -1, -1)
        stride = self.strides[0]
        return self.heatmap(finest), self.size(finest) * stride, self.offset(finest) * stride, points


@final
class CenterNetLoss(nn.Module):
    """Penalty-reduced focal loss of the heatmap, and L1 losses of the sizes and offsets at the centres.

    The target heatmap has a Gaussian around each centre, as in CornerNet (Law and Deng 2018,
    https://arxiv.org/abs/1808.01244).

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
        column, row = self._nearest_cell(center, points)
        target = self._target(column, row, size / self.stride, labels, heatmap)
        logits = heatmap.float()
        scored = rows[:, None, None, None] & ((target == 1) | ~self._ignored(points, boxes, labels))
        loss_cls = torch.where(scored, _focal(logits, target), 0).sum() / count
        cell = row * heatmap.shape[-1] + column
        size_losses = (_gather_cells(sizes, cell) - size).abs().sum(dim=2) / self.stride
        offset_losses = (_gather_cells(offsets, cell) - (center - _gather_cells(points, cell))).abs().sum(
            dim=2
        ) / self.stride
        loss_box = torch.where(is_target, size_losses, 0).sum() / count * _SIZE_WEIGHT
        loss_offset = torch.where(is_target, offset_losses, 0).sum() / count
        return loss_cls + loss_box + loss_offset, loss_cls, loss_box, loss_offset

    def _nearest_cell(self, center: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the column and row, (B, M) int64 each, of the cell nearest to each centre (B, M, 2)."""
        height, width = points.shape[-2:]
        first = points[:, None, :, 0, 0]
        cell = ((center - first) / self.stride + 0.5).floor().long()
        return cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)

    def _ignored(self, points: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Find the cells in boxes to ignore, (B, 1, h, w) bool."""
        centers = points[0].flatten(1).T  # (h w, 2)
        cells = torch.cat([centers - self.stride / 2, centers + self.stride / 2], dim=-1)
        return ignored_anchors(cells, boxes, labels).view(-1, 1, *points.shape[-2:])

    def _target(self, column: Tensor, row: Tensor, size: Tensor, labels: Tensor, heatmap: Tensor) -> Tensor:
        """Draw the Gaussians of all boxes by maximum, (B, K, h, w) in [0, 1]; exactly 1 at the centres."""
        batch, classes, height, width = heatmap.shape
        radius = gaussian_radius(size)[..., None]
        x_profile = _gaussian(torch.arange(width, device=heatmap.device) - column[..., None], radius)
        y_profile = _gaussian(torch.arange(height, device=heatmap.device) - row[..., None], radius)
        y_profile = y_profile * (labels >= 0)[..., None]
        peaks = (y_profile[..., None] * x_profile[..., None, :]).flatten(2)
        by_class = peaks.new_zeros(batch, classes, height * width)
        index = labels.clamp(min=0)[..., None].expand_as(peaks)
        return by_class.scatter_reduce(1, index, peaks, "amax").view_as(heatmap)


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
        scores = heatmap.float().sigmoid()
        compared = scores.amax(dim=1, keepdim=True) if self.class_agnostic else scores
        peak = (scores == functional.max_pool2d(compared, 3, stride=1, padding=1)) & (scores > self.score_threshold)
        flat = torch.where(peak, scores, 0).flatten(1)
        flat = functional.pad(flat, (0, max(self.count - flat.shape[1], 0)))
        best, index = flat.topk(self.count, dim=1)
        cells = heatmap.shape[-2] * heatmap.shape[-1]
        cell = index % cells
        is_detection = best > 0
        center = _gather_cells(points, cell) + _gather_cells(offsets, cell)
        half = _gather_cells(sizes, cell).clamp(min=0) / 2
        boxes = clip(torch.cat([center - half, center + half], dim=-1), image.shape[-2:])
        labels = torch.div(index, cells, rounding_mode="floor").masked_fill(~is_detection, -1)
        return boxes * is_detection[..., None], best, labels


def gaussian_radius(size: Tensor) -> Tensor:
    """Compute the radius, in whole cells, by which corners may move while the IoU stays 0.7 or more: (..., 2) -> (...).

    This is CornerNet's radius, the minimum over three cases (shifted, shrunk, grown), with the correct roots of its
    quadratic equations; the published code divides by 2 instead of 2a.

    Args:
        size: (..., 2), widths and heights in cells.
    """
    total, area, iou = size.sum(dim=-1), size.prod(dim=-1), _MIN_IOU
    shifted = _smaller_root(1.0, total, area * (1 - iou) / (1 + iou))
    inside = _smaller_root(4.0, 2 * total, (1 - iou) * area)
    outside = -_smaller_root(4 * iou, 2 * iou * total, (iou - 1) * area)
    return torch.minimum(torch.minimum(shifted, inside), outside).clamp(min=0).floor()


def _smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
    """Compute the smaller root of a r^2 - b r + c."""
    return (b - (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


def _gaussian(distance: Tensor, radius: Tensor) -> Tensor:
    """Evaluate a one-dimensional Gaussian, 0 beyond `radius`; the arguments broadcast to (..., cells)."""
    sigma = (2 * radius + 1) / 6
    return torch.where(distance.abs() <= radius, torch.exp(-(distance**2) / (2 * sigma**2)), 0)


def _branch(width: int, out: int, bias: float = 0.0) -> nn.Sequential:
    last = nn.Conv2d(width, out, 1)
    if last.bias is not None:
        nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), last)


def _gather_cells(values: Tensor, cell: Tensor) -> Tensor:
    """Gather values (B, 2, h, w) at row-major cell indices (B, N): (B, N, 2) float32."""
    flat = values.float().flatten(2).transpose(1, 2)
    return flat.gather(1, cell[..., None].expand(-1, -1, 2))


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the penalty-reduced focal loss of each cell; centres are the cells with target 1."""
    probability = logits.sigmoid()
    positive = (1 - probability) ** 2 * functional.logsigmoid(logits)
    negative = (1 - target) ** 4 * probability**2 * functional.logsigmoid(-logits)
    return -torch.where(target == 1, positive, negative)
