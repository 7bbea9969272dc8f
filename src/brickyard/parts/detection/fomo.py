"""FOMO: detection of the centres of objects as peaks of a coarse heatmap, without sizes.

After "Faster Objects, More Objects" of Edge Impulse, which luxonis-train has as well. The loss is that of CenterNet's
heatmap (https://arxiv.org/abs/1904.07850): it weights the few cells with an object by the number of objects, instead of
by a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from brickyard.parts.blocks import conv1x1
from brickyard.parts.detection.heatmap import PRIOR_BIAS, cell_map, gather_cells, heatmap_loss, top_peaks
from brickyard.parts.detection.points import levels_from
from brickyard.parts.detection.targets import ignored_classes, is_ignored, labelled_mask
from brickyard.parts.metric_state import BaseMetric, MetricState
from brickyard.parts.tower import PyramidTower

FINEST = 8  # the stride of the heatmap


@final
class FOMO(nn.Module):
    """Heatmap of the centres of objects, from a `PyramidTower` at stride 8.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        num_classes: K.
        width: The channels of the tower.
        depth: The number of residual blocks of the tower.

    Attributes:
        strides: The stride of the heatmap, as a tuple of one.

    Shape: maps (B, C_i, H / s_i, W / s_i) and image (B, C, H, W) -> heatmap (B, K, h, w), logits; cells (B, 2, h, w), x
    and y of the centre of each cell, in pixels.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 48, depth: int = 1
    ) -> None:
        super().__init__()
        self.levels = levels_from(strides, FINEST)
        self.strides = (strides[self.levels[0]],)
        self.tower = PyramidTower([channels[level] for level in self.levels], width, depth)
        self.heatmap = conv1x1(width, num_classes)
        if self.heatmap.bias is not None:
            nn.init.constant_(self.heatmap.bias, PRIOR_BIAS)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        finest = self.tower([features[level] for level in self.levels])
        return self.heatmap(finest), cell_map(finest, self.strides[0], image)


@final
class FOMOLoss(nn.Module):
    """Penalty-reduced focal loss of the heatmap, divided by the number of objects, see `heatmap_loss`.

    Args:
        strides: The stride of the heatmap, as a sequence of one.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.stride = strides[0]

    def extra_repr(self) -> str:
        return "focal loss of the heatmap of centres"

    def forward(
        self, heatmap: Tensor, cells: Tensor, boxes: Tensor, labels: Tensor, labelled: Tensor | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            heatmap: (B, K, h, w); this and `cells` are outputs of `FOMO`.
            cells: (B, 2, h, w).
            boxes: (B, M, 4), padded target boxes, see `PadBoxes`; their centres are learned.
            labels: (B, M) int64, -1 for padding; below -1 for boxes to ignore.
            labelled: (B,) bool; unlabelled images have no loss and no gradient. None for all labelled.
        """
        rows = labelled_mask(labelled, heatmap.flatten(2))
        count = ((labels >= 0) & rows[:, None]).sum().clamp(min=1)
        return heatmap_loss(heatmap, cells, boxes, labels, rows, self.stride) / count


@final
class PointDecode(nn.Module):
    """Decode a heatmap to points: the centres of the cells that are the maximum of the 3 x 3 cells around them.

    Args:
        score_threshold: The minimum class probability.
        count: N, the number of points per image.
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

    def forward(self, heatmap: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode a batch.

        Args:
            heatmap: (B, K, h, w); this and `cells` are outputs of `FOMO`.
            cells: (B, 2, h, w).

        Returns:
            points (B, N, 2) float32, x and y in pixels, scores (B, N) float32 and labels (B, N) int64: best first,
            padded with points of 0, score 0 and label -1.
        """
        scores, labels, cell = top_peaks(heatmap, self.score_threshold, self.count, class_agnostic=self.class_agnostic)
        return gather_cells(cells, cell) * (labels >= 0)[..., None], scores, labels


@final
class PointScores(BaseMetric):
    """Precision, recall and F1 of points with a score from a threshold on.

    A point is correct if it is at most `distance` away from the centre of a box of its class. Each box is matched by
    one point at most: points choose the nearest box that is left, the best score first, as detections do in COCO. A
    point that is not matched counts as wrong, unless it lies in a box to ignore of its class.

    Args:
        distance: In pixels of the images that the model takes.
        score_threshold: Points with a lower score are ignored.
    """

    correct: Annotated[Tensor, MetricState(default=0)]
    wrong: Annotated[Tensor, MetricState(default=0)]
    missed: Annotated[Tensor, MetricState(default=0)]
    images: Annotated[Tensor, MetricState(default=0)]
    higher_is_better = True

    def __init__(self, distance: float, score_threshold: float = 0.3) -> None:
        super().__init__()
        self.distance = distance
        self.score_threshold = score_threshold

    def update(
        self,
        points: Tensor,
        scores: Tensor,
        labels: Tensor,
        target_boxes: Tensor,
        target_labels: Tensor,
        labelled: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            points: (B, N, 2), in pixels.
            scores: (B, N), best first.
            labels: (B, N), -1 for padding.
            target_boxes: (B, M, 4); this and `target_labels` are outputs of `PadBoxes`.
            target_labels: (B, M), -1 for padding; below -1 for boxes to ignore.
            labelled: (B,) bool; unlabelled images are ignored. None for all labelled.
        """
        if labelled is not None:
            points, scores, labels = points[labelled], scores[labelled], labels[labelled]
            target_boxes, target_labels = target_boxes[labelled], target_labels[labelled]
        kept = (labels >= 0) & (scores >= self.score_threshold)
        matched = self._matched(points, labels.masked_fill(~kept, -1), target_boxes, target_labels)
        unmatched = kept & ~matched & ~_in_ignored_box(points, labels, target_boxes, target_labels)
        self.correct += matched.sum()
        self.wrong += unmatched.sum()
        self.missed += (target_labels >= 0).sum() - matched.sum()
        self.images += len(points)

    def compute(self) -> dict[str, Tensor]:
        """Return "F1", "Precision" and "Recall", nan where nothing was predicted or nothing was to be found."""
        if self.images == 0:
            return {}
        predicted, present = self.correct + self.wrong, self.correct + self.missed
        return {
            "F1": 2 * self.correct / (predicted + present),
            "Precision": self.correct / predicted,
            "Recall": self.correct / present,
        }

    def _matched(self, points: Tensor, labels: Tensor, boxes: Tensor, target_labels: Tensor) -> Tensor:
        """Match points to boxes one to one and return the points that have a box, (B, N) bool."""
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        gaps = (points[:, :, None] - centers[:, None]).norm(dim=-1)
        is_pair = (labels[..., None] == target_labels[:, None]) & (labels[..., None] >= 0) & (gaps <= self.distance)
        gaps = torch.where(is_pair, gaps, torch.inf)  # (B, N, M)
        matched = torch.zeros_like(labels, dtype=torch.bool)
        for index in (labels >= 0).any(dim=0).nonzero().flatten().tolist():
            nearest, target = gaps[:, index].min(dim=1)
            matched[:, index] = nearest.isfinite()
            taken = torch.zeros_like(target_labels, dtype=torch.bool).scatter(
                1, target[:, None], nearest.isfinite()[:, None]
            )
            gaps = gaps.masked_fill(taken[:, None], torch.inf)
        return matched


def point_metrics(distance: float, score_threshold: float = 0.3) -> MetricCollection:
    """Create precision, recall and F1 of points, see `PointScores`."""
    return MetricCollection({"PointScores": PointScores(distance, score_threshold)})


def _in_ignored_box(points: Tensor, labels: Tensor, boxes: Tensor, target_labels: Tensor) -> Tensor:
    """Return which points (B, N, 2) lie in a box to ignore of their class, (B, N) bool."""
    inside = (points[:, :, None] >= boxes[:, None, :, :2]) & (points[:, :, None] <= boxes[:, None, :, 2:])
    of_class = is_ignored(target_labels)[:, None] & (ignored_classes(target_labels)[:, None] == labels[..., None])
    return (inside.all(dim=-1) & of_class).any(dim=-1)
