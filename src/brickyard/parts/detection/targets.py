"""Detection targets: pad the boxes of a batch, gather the boxes assigned to anchors, find anchors to ignore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from brickyard.core.compiling import not_compiled
from brickyard.parts.detection.boxes import area_of, pairwise_intersection

_MIN_PADDED = 16  # M is this times a power of two, so that a compiled loss has few different shapes
_IGNORED_SHARE = 0.5  # of an anchor's area in a box to ignore, from which the anchor is ignored, as in MMDetection


@final
class PadBoxes(nn.Module):
    """Pad the boxes of the images of a batch to one tensor.

    To compile a training step with `fullgraph=True`, pad before the step: call `PadBoxes(K)(targets, image)` in the
    training loop and pass the two tensors as `{"boxes": ..., "labels": ...}` in the batch. Padded targets are returned
    unchanged.

    Args:
        num_classes: K. Not used: stored models have it.

    Example:
        >>> targets = [{"boxes": torch.tensor([[0.0, 0.0, 4.0, 8.0]]), "labels": torch.tensor([1])}]
        >>> boxes, labels = PadBoxes(num_classes=2)(targets, torch.zeros(1, 3, 32, 32))
        >>> boxes.shape, labels[0, :3].tolist()
        (torch.Size([1, 16, 4]), [1, -1, -1])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(
        self, targets: Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor], image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pad the targets of a batch.

        Args:
            targets: For each image {"boxes": (M, 4), "labels": (M,) integers in [0, K)}, M may be 0, optionally with
                "ignore" (M,) bool: boxes that are neither objects to detect nor background, such as COCO's crowds and
                VOC's difficult objects. Or the same entries padded to (B, M, 4) and (B, M).
            image: (B, C, H, W).

        Returns:
            boxes (B, M, 4) float32, padded with 0, and labels (B, M) int64, padded with -1; M is 16, 32, 64, ... The
            label of a box to ignore is -2 - its class.
        """
        if isinstance(targets, Mapping):
            return targets["boxes"], _with_ignored(targets)
        padded: tuple[Tensor, Tensor] = self._pad(targets, image)
        return padded

    @not_compiled("lists of boxes differ in length: pad them with `PadBoxes` for fullgraph=True")
    def _pad(self, targets: Sequence[Mapping[str, Tensor]], image: Tensor) -> tuple[Tensor, Tensor]:
        max_count = max((len(target["boxes"]) for target in targets), default=0)
        size = _MIN_PADDED
        while size < max_count:
            size *= 2
        boxes = image.new_zeros((len(targets), size, 4), dtype=torch.float32)
        labels = torch.full((len(targets), size), -1, dtype=torch.int64, device=image.device)
        for index, target in enumerate(targets):
            count = len(target["boxes"])
            boxes[index, :count] = target["boxes"]
            labels[index, :count] = _with_ignored(target)
        return boxes, labels


def _with_ignored(target: Mapping[str, Tensor]) -> Tensor:
    """Return the labels with -2 - class for boxes to ignore."""
    labels = target["labels"]
    return torch.where(target["ignore"], -2 - labels, labels) if "ignore" in target else labels


def is_ignored(labels: Tensor) -> Tensor:
    """Return which of the labels, as `PadBoxes` returns them, belong to boxes to ignore."""
    return labels < -1


def ignored_classes(labels: Tensor) -> Tensor:
    """Return the classes of labels for which `is_ignored` is True."""
    return -2 - labels


def ignored_anchors(anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Find the anchors of which half the area or more is in a box to ignore; they are no background.

    Args:
        anchors: (P, 4).
        boxes: (B, M, 4); this and `labels` are outputs of `PadBoxes`.
        labels: (B, M).

    Returns:
        (B, P) bool.
    """
    covered = pairwise_intersection(boxes, anchors) >= _IGNORED_SHARE * area_of(anchors)
    return (covered & is_ignored(labels)[..., None]).any(dim=1)


def gather_matches(boxes: Tensor, labels: Tensor, match: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the assigned box and label of each anchor.

    Args:
        boxes: (B, M, 4).
        labels: (B, M).
        match: (B, P), an index into M, or negative for anchors without a box.
        anchors: (P, 4).

    Returns:
        boxes (B, P, 4) and labels (B, P). For anchors without a box these are the anchor itself, for which all losses
        and gradients are finite, and -1.
    """
    index = match.clamp(min=0)
    has_box = match >= 0
    gathered = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return torch.where(has_box[..., None], gathered, anchors), torch.where(has_box, labels.gather(1, index), -1)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Encode labels (B, P) as one-hot vectors (B, P, K) with the dtype and shape of `like`; zeros for -1."""
    return (labels[..., None] == torch.arange(like.shape[-1], device=like.device)).to(like.dtype)


def labelled_mask(labelled: Tensor | None, batch: Tensor) -> Tensor:
    """Return `labelled` (B,) bool, or all True if it is None."""
    return torch.ones_like(batch[:, 0, 0], dtype=torch.bool) if labelled is None else labelled
