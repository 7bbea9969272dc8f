"""Targets of instances: pad masks and key points to one tensor, and select the points whose masks are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from brickyard.core.compiling import not_compiled
from brickyard.errors import BrickInputError
from brickyard.parts.detection.targets import PadBoxes


@final
class PadInstances(nn.Module):
    """Pad the objects of the images of a batch to one tensor for each entry, as `PadBoxes` does with boxes.

    To compile a training step with `fullgraph=True`, pad before the step, as described there.

    Args:
        num_classes: K.
        entries: The entries to pad besides boxes and labels: "masks" (M, H, W), "keypoints" (M, J, 3).

    Example:
        >>> points = torch.tensor([[[1.0, 2.0, 2.0]]])
        >>> targets = [{"boxes": torch.tensor([[0.0, 0, 4, 8]]), "labels": torch.tensor([1]), "keypoints": points}]
        >>> boxes, labels, keypoints = PadInstances(2, ["keypoints"])(targets, torch.zeros(1, 3, 32, 32))
        >>> keypoints.shape
        torch.Size([1, 16, 1, 3])
    """

    def __init__(self, num_classes: int, entries: Sequence[str]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.entries = list(entries)
        self.pad_boxes = PadBoxes(num_classes)

    def forward(
        self, targets: Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor], image: Tensor
    ) -> tuple[Tensor, ...]:
        """Pad the targets of a batch.

        Args:
            targets: For each image "boxes" and "labels", optionally "ignore", see `PadBoxes`, and the entries with one
                row for each box. Or the same, padded.
            image: (B, C, H, W).

        Returns:
            boxes (B, M, 4) float32 and labels (B, M) int64 as `PadBoxes` returns them, and each entry (B, M, ...) with
            its dtype, padded with 0.

        Raises:
            BrickInputError: A target lacks an entry.
        """
        for target in [targets] if isinstance(targets, Mapping) else targets:
            if missing := sorted({*self.entries} - target.keys()):
                raise BrickInputError("targets", f"objects with {self.entries}", f"no {missing}, only {[*target]}")
        boxes, labels = self.pad_boxes(targets, image)
        if isinstance(targets, Mapping):
            return boxes, labels, *(targets[name] for name in self.entries)
        return boxes, labels, *(self._pad(targets, name, boxes) for name in self.entries)

    @not_compiled("lists of objects differ in length: pad them with `PadInstances` for fullgraph=True")
    def _pad(self, targets: Sequence[Mapping[str, Tensor]], name: str, boxes: Tensor) -> Tensor:
        first = targets[0][name]
        padded = torch.zeros((*boxes.shape[:2], *first.shape[1:]), dtype=first.dtype, device=boxes.device)
        for index, target in enumerate(targets):
            padded[index, : len(target[name])] = target[name]
        return padded


def select_positives(
    match: Tensor, quality: Tensor, num_objects: int, per_object: int, count: int
) -> tuple[Tensor, Tensor]:
    """Select a fixed number of points with an object, so that as many objects as possible are among them.

    The best point of each object comes first, then the second best of each, and so on; the better ones first.

    Args:
        match: (B, P), the object of each point, negative for none.
        quality: (B, P), in [0, 1]; the highest is best.
        num_objects: M.
        per_object: The largest number of points of an object.
        count: S, the number of points to select.

    Returns:
        (B, S), indices into P, and (B, S) bool, which of them are points with an object. S is smaller if there are
        fewer than M times `per_object` points.

    Example:
        >>> match, quality = torch.tensor([[0, 0, -1, 1]]), torch.tensor([[0.5, 0.9, 1.0, 0.1]])
        >>> index, is_positive = select_positives(match, quality, num_objects=2, per_object=2, count=4)
        >>> index[is_positive].tolist()
        [1, 3, 0]
    """
    objects = torch.arange(num_objects, device=match.device)[:, None]
    of_object = torch.where(match[:, None] == objects, quality[:, None], -1.0)  # (B, M, P)
    best, index = of_object.topk(min(per_object, match.shape[1]), dim=2)  # (B, M, k)
    rank = torch.arange(best.shape[2], device=best.device)
    priority = torch.where(best >= 0, best - 2 * rank, -torch.inf).flatten(1)
    chosen, order = priority.topk(min(count, priority.shape[1]), dim=1)
    return index.flatten(1).gather(1, order), chosen.isfinite()
