"""Average precision of detections."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision

_REPORTED = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")


@final
class PaddedMeanAveragePrecision(Metric):
    """COCO's mean average precision and recall of padded detections against padded targets, by torchmetrics.

    torchmetrics' own class gathers picture by picture, and aborts where processes hold different numbers of pictures;
    here the boxes of all pictures are one tensor, gathered at once.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    found: list[Tensor]
    found_counts: list[Tensor]
    labelled_boxes: list[Tensor]
    labelled_counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("found", "found_counts", "labelled_boxes", "labelled_counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        target_boxes: Tensor,
        target_labels: Tensor,
        labelled: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            boxes: (B, N, 4).
            scores: (B, N).
            labels: (B, N), -1 where padded.
            target_boxes: (B, M, 4).
            target_labels: (B, M), -1 where padded.
            labelled: (B,) bool; other pictures are left out.
        """
        if labelled is not None:
            boxes, scores, labels = boxes[labelled], scores[labelled], labels[labelled]
            target_boxes, target_labels = target_boxes[labelled], target_labels[labelled]
        there, target_there = labels >= 0, target_labels >= 0
        self.found.append(torch.cat([boxes, scores[..., None], labels[..., None]], dim=-1)[there])
        self.found_counts.append(there.sum(dim=1))
        self.labelled_boxes.append(torch.cat([target_boxes, target_labels[..., None]], dim=-1)[target_there])
        self.labelled_counts.append(target_there.sum(dim=1))

    def compute(self) -> dict[str, Any]:
        """Precision `map`, `map_50`, `map_75`, `map_small` ... and recall `mar_1`, `mar_10`, `mar_100`; -1 for none."""
        found = _by_image(self.found, self.found_counts)
        labelled = _by_image(self.labelled_boxes, self.labelled_counts)
        metric = MeanAveragePrecision(backend="faster_coco_eval")  # pycocotools takes six times as long
        metric.update(
            [{"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()} for rows in found],
            [{"boxes": rows[:, :4], "labels": rows[:, 4].long()} for rows in labelled],
        )
        computed = metric.compute()
        return {name: computed[name] for name in _REPORTED}


def detection_metrics() -> MetricCollection:
    """Mean average precision and recall as COCO defines them, see `PaddedMeanAveragePrecision`."""
    return MetricCollection({"MeanAveragePrecision": PaddedMeanAveragePrecision()})


def _by_image(rows: list[Tensor] | Tensor, counts: list[Tensor] | Tensor) -> tuple[Tensor, ...]:
    return torch.split(_joined(rows), _joined(counts).tolist())


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state as one tensor: after a gathering over processes it is one already."""
    return state if isinstance(state, Tensor) else torch.cat(state)
