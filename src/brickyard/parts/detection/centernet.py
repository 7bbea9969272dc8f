"""CenterNet: a box is a peak in a heatmap, with a size and an offset; no anchors, no non-maximum suppression.

Zhou et al. 2019, https://arxiv.org/abs/1904.07850, on a feature pyramid instead of the paper's hourglass.
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
from brickyard.parts.detection.targets import all_labelled

FINEST = 4  # the stride of the heatmap
_PRIOR = 0.1  # the probability of a centre to begin with, as in the paper's code
_MIN_OVERLAP = 0.7  # a box moved by the Gaussian's radius still overlaps as much
_SIZE_WEIGHT = 0.1  # of the loss of sizes, against those of centres and offsets


@final
class CenterNet(nn.Module):
    """A feature pyramid and three small heads on its finest map.

    Args:
        channels: Of the backbone's maps, whose strides grow.
        strides: Of the backbone's maps.
        num_classes: K.
        width: Channels of the pyramid and of the heads.

    Attributes:
        strides: That of the heatmap, one number.

    Shape: maps (B, C_i, H / s_i, W / s_i) and the image (B, C, H, W) -> heatmap (B, K, h, w), logits; sizes
    (B, 2, h, w), widths and heights in pixels; offsets (B, 2, h, w), from the cell's centre in pixels; points
    (B, 2, h, w), x and y of the cell's centre.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.levels = levels_from(strides, FINEST)
        self.strides = (strides[self.levels[0]],)
        self.fpn = FeaturePyramidNetwork([channels[level] for level in self.levels], width)
        for level in range(1, len(self.levels)):  # the coarser maps are read by nobody
            self.fpn.layer_blocks[level] = nn.Identity()
        self.heatmap = _branch(width, num_classes, bias=-math.log((1 - _PRIOR) / _PRIOR))
        self.size, self.offset = _branch(width, 2), _branch(width, 2)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        finest = self.fpn({str(level): features[level] for level in self.levels})[str(self.levels[0])]
        batch, _, height, width = finest.shape
        points = cell_centers([finest], self.strides, image.shape[-2:], own=1)[0]
        points = points.T.reshape(2, height, width).expand(batch, -1, -1, -1)
        stride = self.strides[0]
        return self.heatmap(finest), self.size(finest) * stride, self.offset(finest) * stride, points


@final
class CenterNetLoss(nn.Module):
    """Penalty-reduced focal loss of the heatmap, and L1 losses of sizes and offsets at the centres.

    The Gaussian around a centre is that of CornerNet (Law and Deng 2018, https://arxiv.org/abs/1808.01244).

    Args:
        strides: That of the heatmap, one number.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.stride = strides[0]

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
        """Compute the loss and its parts.

        Args:
            heatmap: (B, K, h, w), like the next three an output of `CenterNet`.
            sizes: (B, 2, h, w).
            offsets: (B, 2, h, w).
            points: (B, 2, h, w).
            boxes: (B, M, 4), padded.
            labels: (B, M) int64, -1 where padded.
            labelled: (B,) bool; pictures without label add nothing and get no gradient.

        Returns:
            The sum; the losses of classes, sizes (in cells, weighted) and offsets (in cells). Each is divided by the
            number of boxes.
        """
        rows = all_labelled(labelled, heatmap.flatten(2))
        there = (labels >= 0) & rows[:, None]
        count = there.sum().clamp(min=1)
        center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        column, row = self._cell(center, points)
        target = self._target(column, row, size / self.stride, labels, heatmap)
        logits = heatmap.float()
        loss_cls = torch.where(rows[:, None, None, None], _focal(logits, target), 0).sum() / count
        place = row * heatmap.shape[-1] + column
        by_size = (_at(sizes, place) - size).abs().sum(dim=2) / self.stride
        by_offset = (_at(offsets, place) - (center - _at(points, place))).abs().sum(dim=2) / self.stride
        loss_box = torch.where(there, by_size, 0).sum() / count * _SIZE_WEIGHT
        loss_offset = torch.where(there, by_offset, 0).sum() / count
        return loss_cls + loss_box + loss_offset, loss_cls, loss_box, loss_offset

    def _cell(self, center: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """The column and row of the cell nearest to each centre (B, M, 2); (B, M) int64 each."""
        height, width = points.shape[-2:]
        first = points[:, None, :, 0, 0]
        cell = ((center - first) / self.stride + 0.5).floor().long()
        return cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)

    def _target(self, column: Tensor, row: Tensor, size: Tensor, labels: Tensor, heatmap: Tensor) -> Tensor:
        """The Gaussians of all boxes, (B, K, h, w) in [0, 1], exactly 1 at centres; where they overlap, the larger."""
        batch, classes, height, width = heatmap.shape
        radius = gaussian_radius(size)[..., None]
        across = _bell(torch.arange(width, device=heatmap.device) - column[..., None], radius)
        down = _bell(torch.arange(height, device=heatmap.device) - row[..., None], radius)
        down = down * (labels >= 0)[..., None]
        peaks = (down[..., None] * across[..., None, :]).flatten(2)
        by_class = peaks.new_zeros(batch, classes, height * width)
        index = labels.clamp(min=0)[..., None].expand_as(peaks)
        return by_class.scatter_reduce(1, index, peaks, "amax").view_as(heatmap)


@final
class CenterNetDecode(nn.Module):
    """What `CenterNet` writes -> detections: the highest peaks, those cells that no neighbour exceeds.

    Args:
        score_threshold: Of the class probability.
        count: N.
    """

    def __init__(self, score_threshold: float = 0.05, count: int = 100) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.count = count

    def forward(
        self, heatmap: Tensor, sizes: Tensor, offsets: Tensor, points: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode a batch; shapes as in `CenterNet`, results as in `detections`."""
        scores = heatmap.float().sigmoid()
        peak = (scores == functional.max_pool2d(scores, 3, stride=1, padding=1)) & (scores > self.score_threshold)
        flat = torch.where(peak, scores, 0).flatten(1)
        flat = functional.pad(flat, (0, max(self.count - flat.shape[1], 0)))
        best, index = flat.topk(self.count, dim=1)
        cells = heatmap.shape[-2] * heatmap.shape[-1]
        place = index % cells
        found = best > 0
        center = _at(points, place) + _at(offsets, place)
        half = _at(sizes, place).clamp(min=0) / 2
        boxes = clip(torch.cat([center - half, center + half], dim=-1), image.shape[-2:])
        labels = torch.div(index, cells, rounding_mode="floor").masked_fill(~found, -1)
        return boxes * found[..., None], best, labels


def gaussian_radius(size: Tensor) -> Tensor:
    """How far, in whole cells, a box of this size may move and still overlap itself by 0.7, (..., 2) -> (...).

    CornerNet's radius: the least of the three cases (moved, shrunk, grown), with the right roots of its three quadratic
    equations; the published code divides by 2 instead of 2a.
    """
    total, area, least = size.sum(dim=-1), size.prod(dim=-1), _MIN_OVERLAP
    shifted = _smaller_root(1.0, total, area * (1 - least) / (1 + least))
    inside = _smaller_root(4.0, 2 * total, (1 - least) * area)
    outside = -_smaller_root(4 * least, 2 * least * total, (least - 1) * area)
    return torch.minimum(torch.minimum(shifted, inside), outside).clamp(min=0).floor()


def _smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
    """The smaller root of a r^2 - b r + c."""
    return (b - (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


def _bell(distance: Tensor, radius: Tensor) -> Tensor:
    """One axis of a Gaussian that is cut off at `radius`; both (..., cells) or broadcast to it."""
    sigma = (2 * radius + 1) / 6
    return torch.where(distance.abs() <= radius, torch.exp(-(distance**2) / (2 * sigma**2)), 0)


def _branch(width: int, out: int, bias: float = 0.0) -> nn.Sequential:
    last = nn.Conv2d(width, out, 1)
    if last.bias is not None:
        nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), last)


def _at(values: Tensor, place: Tensor) -> Tensor:
    """Values (B, 2, h, w) at places (B, N), counted row by row: (B, N, 2) float32."""
    flat = values.float().flatten(2).transpose(1, 2)
    return flat.gather(1, place[..., None].expand(-1, -1, 2))


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """The penalty-reduced focal loss of each cell: centres are those where the target is 1."""
    probability = logits.sigmoid()
    positive = (1 - probability) ** 2 * functional.logsigmoid(logits)
    negative = (1 - target) ** 4 * probability**2 * functional.logsigmoid(-logits)
    return -torch.where(target == 1, positive, negative)
