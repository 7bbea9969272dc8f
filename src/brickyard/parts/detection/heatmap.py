"""Heatmaps with a peak at the centre of each object: positions of cells, targets, loss and peaks, as in CenterNet.

Zhou et al. 2019, https://arxiv.org/abs/1904.07850; the targets and the loss are those of CornerNet (Law and Deng 2018,
https://arxiv.org/abs/1808.01244).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from brickyard.parts.detection.points import cell_centers
from brickyard.parts.detection.targets import ignored_anchors

_PRIOR = 0.1  # the initial probability of a centre, as in CenterNet's code
PRIOR_BIAS = -math.log((1 - _PRIOR) / _PRIOR)  # the initial bias of the last layer
_MIN_IOU = 0.7  # the minimum IoU of a box shifted by the radius of the Gaussian


def cell_map(features: Tensor, stride: int, image: Tensor) -> Tensor:
    """Compute the centre of each cell of a feature map (B, C, h, w), in pixels of the image: (B, 2, h, w), x and y."""
    batch, _, height, width = features.shape
    centers = cell_centers([features], (stride,), image.shape[-2:], num_backbone_maps=1)[0]
    return centers.T.reshape(2, height, width).expand(batch, -1, -1, -1)


def nearest_cells(center: Tensor, cells: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Compute the column and row, (B, M) int64 each, of the cell nearest to each centre (B, M, 2).

    Args:
        center: (B, M, 2), in pixels.
        cells: (B, 2, h, w), see `cell_map`.
        stride: The stride of the heatmap.
    """
    height, width = cells.shape[-2:]
    first = cells[:, None, :, 0, 0]
    cell = ((center - first) / stride + 0.5).floor().long()
    return cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)


def gather_cells(values: Tensor, cell: Tensor) -> Tensor:
    """Gather values (B, 2, h, w) at row-major cell indices (B, N): (B, N, 2) float32."""
    flat = values.float().flatten(2).transpose(1, 2)
    return flat.gather(1, cell[..., None].expand(-1, -1, 2))


def heatmap_loss(heatmap: Tensor, cells: Tensor, boxes: Tensor, labels: Tensor, rows: Tensor, stride: int) -> Tensor:
    """Sum the penalty-reduced focal loss over the cells of a heatmap, computed in float32.

    Args:
        heatmap: (B, K, h, w), logits.
        cells: (B, 2, h, w), see `cell_map`.
        boxes: (B, M, 4), padded target boxes.
        labels: (B, M) int64, -1 for padding; below -1 for boxes to ignore, whose cells are no background.
        rows: (B,) bool; images without a label have no loss and no gradient.
        stride: The stride of the heatmap.

    Returns:
        (), the sum; CenterNet divides it by the number of objects.
    """
    # Rows without a label have no boxes, so that their values, which may be anything, do not reach the gradients.
    boxes, labels = torch.where(rows[:, None, None], boxes, 0), torch.where(rows[:, None], labels, -1)
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    column, row = nearest_cells(center, cells, stride)
    target = _target(column, row, size / stride, labels, heatmap)
    scored = rows[:, None, None, None] & ((target == 1) | ~_ignored(cells, boxes, labels, stride))
    return torch.where(scored, _focal(heatmap.float(), target), 0).sum()


def top_peaks(
    heatmap: Tensor, score_threshold: float, count: int, *, class_agnostic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the highest cells that are the maximum of the 3 x 3 cells around them.

    Args:
        heatmap: (B, K, h, w), logits.
        score_threshold: Cells with a lower probability are no peaks.
        count: N.
        class_agnostic: Whether maxima are taken over all classes, so that an object gets one label.

    Returns:
        scores (B, N) float32, best first; labels (B, N) int64; and row-major indices of cells (B, N) int64. Where there
        are fewer peaks, the score is 0 and the label -1.
    """
    scores = heatmap.float().sigmoid()
    compared = scores.amax(dim=1, keepdim=True) if class_agnostic else scores
    is_peak = (scores == functional.max_pool2d(compared, 3, stride=1, padding=1)) & (scores > score_threshold)
    flat = torch.where(is_peak, scores, 0).flatten(1)
    flat = functional.pad(flat, (0, max(count - flat.shape[1], 0)))
    best, index = flat.topk(count, dim=1)
    cells = heatmap.shape[-2] * heatmap.shape[-1]
    labels = torch.div(index, cells, rounding_mode="floor").masked_fill(best <= 0, -1)
    return best, labels, index % cells


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


def _ignored(cells: Tensor, boxes: Tensor, labels: Tensor, stride: int) -> Tensor:
    """Find the cells in boxes to ignore, (B, 1, h, w) bool."""
    centers = cells[0].flatten(1).T  # (h w, 2)
    squares = torch.cat([centers - stride / 2, centers + stride / 2], dim=-1)
    return ignored_anchors(squares, boxes, labels).view(-1, 1, *cells.shape[-2:])


def _target(column: Tensor, row: Tensor, size: Tensor, labels: Tensor, heatmap: Tensor) -> Tensor:
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


def _smaller_root(a: float, b: Tensor, c: Tensor) -> Tensor:
    """Compute the smaller root of a r^2 - b r + c."""
    return (b - (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)


def _gaussian(distance: Tensor, radius: Tensor) -> Tensor:
    """Evaluate a one-dimensional Gaussian, 0 beyond `radius`; the arguments broadcast to (..., cells)."""
    sigma = (2 * radius + 1) / 6
    return torch.where(distance.abs() <= radius, torch.exp(-(distance**2) / (2 * sigma**2)), 0)


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the penalty-reduced focal loss of each cell; centres are the cells with target 1."""
    probability = logits.sigmoid()
    positive = (1 - probability) ** 2 * functional.logsigmoid(logits)
    negative = (1 - target) ** 4 * probability**2 * functional.logsigmoid(-logits)
    return -torch.where(target == 1, positive, negative)
