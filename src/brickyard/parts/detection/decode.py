"""Batched non-maximum suppression to a fixed number of detections per image."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from brickyard.parts.detection.boxes import clip


class NMSDecode(nn.Module, ABC):
    """Base class of decoders with non-maximum suppression.

    Args:
        score_threshold: Detections with a lower score are removed.
        iou_threshold: The IoU above which non-maximum suppression removes the box with the lower score.
        candidates: The number of highest scores per image that take part.
        count: N, the number of detections per image.
        class_agnostic: Whether a box suppresses boxes of every class, so that an object gets one label.
        strides: The strides of the feature maps, to select that many candidates from each map, as torchvision does;
            None to select them from all maps together. Maps have the size of the image divided by the stride, rounded
            up.
    """

    def __init__(
        self,
        score_threshold: float,
        iou_threshold: float,
        candidates: int,
        count: int,
        class_agnostic: bool,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.candidates = candidates
        self.count = count
        self.class_agnostic = class_agnostic
        self.strides = None if strides is None else list(strides)

    def extra_repr(self) -> str:
        names = ("score_threshold", "iou_threshold", "candidates", "count", "class_agnostic")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def select(self, scores: Tensor, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes, scores and labels of `batched_nms` with these settings, for images (B, C, H, W)."""
        return self.select_anchors(scores, boxes, image)[:3]

    def select_anchors(self, scores: Tensor, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Call `batched_nms` with these settings, for images (B, C, H, W)."""
        return batched_nms(
            scores,
            boxes,
            image.shape[-2:],
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            candidates=self.candidates,
            count=self.count,
            class_agnostic=self.class_agnostic,
            map_sizes=None if self.strides is None else self._map_sizes(scores, image),
        )

    def _map_sizes(self, scores: Tensor, image: Tensor) -> list[int]:
        """Compute the number of anchors of each map from the size of the image."""
        height, width = image.shape[-2:]
        cells = [-(-height // stride) * -(-width // stride) for stride in self.strides or ()]
        anchors_per_cell = scores.shape[1] // sum(cells)
        return [count * anchors_per_cell for count in cells]


def batched_nms(
    scores: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    count: int,
    class_agnostic: bool = False,
    map_sizes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply non-maximum suppression to a whole batch, in one call and with outputs of fixed size.

    The steps are those of torchvision's `FCOS.postprocess_detections`, except that by default the best candidates are
    selected over all feature maps together instead of per map, so that the cost does not grow with the number of maps.

    Args:
        scores: (B, P, K), in [0, 1].
        boxes: (B, P, 4); they are clipped to the image.
        image_size: (H, W).
        score_threshold: Detections with a lower score are removed.
        iou_threshold: Of two boxes of a class with a higher IoU, the one with the lower score is removed.
        candidates: The number of highest scores per image that take part.
        count: N.
        class_agnostic: Whether boxes of different classes suppress each other, too.
        map_sizes: The number of anchors of each feature map, whose sum is P, to select that many candidates from each
            map; None to select them from all maps together.

    Returns:
        boxes (B, N, 4) float32, scores (B, N) float32 and labels (B, N) int64, sorted by decreasing score and padded
        with boxes of 0, score 0 and label -1; and the anchor of each, (B, N) int64, an index into P, 0 for padding.

    Example:
        >>> scores, boxes = torch.tensor([[[0.9], [0.8]]]), torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 9]]])
        >>> options = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates": 100, "count": 2}
        >>> batched_nms(scores, boxes, (16, 16), **options)[2]
        tensor([[ 0, -1]])
    """
    batch, _, classes = scores.shape
    height, width = image_size
    best, index = _best_scores(scores.float().flatten(1), candidates, classes, map_sizes)
    labels = index % classes
    anchor = torch.div(index, classes, rounding_mode="floor")
    selected = clip(boxes.float().gather(1, anchor[..., None].expand(-1, -1, 4)), image_size)
    valid = best > score_threshold

    # Shift the boxes of each image and class, so that only boxes of the same image and class overlap: images along x,
    # classes along y. Along one axis, coordinates would exceed the precision of float32.
    images = torch.arange(batch, device=scores.device)[:, None].expand_as(labels)
    rows = torch.zeros_like(labels) if class_agnostic else labels
    shift = torch.stack([images * (width + 2), rows * (height + 2)], dim=-1).float()
    # All boxes below the threshold are replaced by one dummy box, so that the first of them suppresses the others. This
    # and a second dummy box are appended, because torchvision tells the compiler that at least two boxes are kept.
    dummies = selected.new_tensor([[-4.0, -4.0, -2.0, -2.0], [-8.0, -8.0, -6.0, -6.0]])
    shifted = torch.where(valid[..., None], selected + torch.cat([shift, shift], dim=-1), dummies[0])
    kept = nms(torch.cat([shifted.flatten(0, 1), dummies]), functional.pad(best.flatten(), (0, 2)), iou_threshold)

    is_kept = torch.zeros_like(functional.pad(valid.flatten(), (0, 2))).scatter(0, kept, True)[:-2].view_as(valid)
    return _top_detections(best.masked_fill(~(is_kept & valid), 0), selected, labels, anchor, count)


def _best_scores(
    scores: Tensor, candidates: int, classes: int, map_sizes: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Select the highest of the scores (B, P * K), of each map or of all, with their indices: both (B, C)."""
    if map_sizes is None:
        best, index = scores.topk(min(candidates, scores.shape[1]), dim=1)
        return best, index
    values, indices, start = [], [], 0
    for size in map_sizes:
        of_map = scores[:, start : start + size * classes]
        # Padded, so that the number of candidates does not depend on the size of the image; no score is below 0.
        best, index = functional.pad(of_map, (0, candidates)).topk(candidates, dim=1)
        values.append(best)
        indices.append((index + start).clamp(max=scores.shape[1] - 1))
        start += size * classes
    return torch.cat(values, dim=1), torch.cat(indices, dim=1)


def _top_detections(
    scores: Tensor, boxes: Tensor, labels: Tensor, anchor: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Select the `count` candidates (B, C) with the highest scores, and pad where the score is 0."""
    missing = max(count - scores.shape[1], 0)
    scores, order = functional.pad(scores, (0, missing)).topk(count, dim=1)
    boxes = functional.pad(boxes, (0, 0, 0, missing)).gather(1, order[..., None].expand(-1, -1, 4))
    labels, anchor = (functional.pad(each, (0, missing)).gather(1, order) for each in (labels, anchor))
    is_detection = scores > 0
    return boxes * is_detection[..., None], scores, labels.masked_fill(~is_detection, -1), anchor * is_detection
