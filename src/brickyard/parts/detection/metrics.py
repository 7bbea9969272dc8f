"""Mean average precision of detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.utilities import dim_zero_cat

from brickyard.parts.detection.targets import ignored_classes, is_ignored

_REPORTED = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
_CURVES = ("precision", "scores")


@final
@dataclass(frozen=True)
class ClassPrecision:
    """COCO's average precision and recall of each class, and its curves.

    Attributes:
        classes: The C classes that have an object or a detection.
        values: (C,) by name: AP, AP50, AP75, and AR100, the recall of 100 detections per image; nan without an object.
        ious: The T thresholds of intersection over union.
        recalls: The R recalls of the curves.
        precision: (T, R, C), the precision at each recall, or -1 without an object.
        scores: (T, R, C), the lowest score of the detections that are needed for it.
    """

    classes: list[int]
    values: dict[str, npt.NDArray[Any]]
    ious: list[float]
    recalls: list[float]
    precision: npt.NDArray[Any]
    scores: npt.NDArray[Any]


@final
class PaddedMeanAveragePrecision(Metric):
    """COCO's mean average precision and recall of padded detections, computed by torchmetrics.

    torchmetrics' `MeanAveragePrecision` gathers its states image by image and fails if processes have different numbers
    of images. This class stores the boxes of all images in one tensor, which is gathered at once.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    detections: list[Tensor]
    detection_counts: list[Tensor]
    targets: list[Tensor]
    target_counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("detections", "detection_counts", "targets", "target_counts"):
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
            labels: (B, N), -1 for padding.
            target_boxes: (B, M, 4).
            target_labels: (B, M), -1 for padding; below -1 for boxes to ignore, see `PadBoxes`. As COCO's crowds they
                are not to be detected, and detections on them do not count.
            labelled: (B,) bool; unlabelled images are ignored. None for all labelled.
        """
        if labelled is not None:
            boxes, scores, labels = boxes[labelled], scores[labelled], labels[labelled]
            target_boxes, target_labels = target_boxes[labelled], target_labels[labelled]
        is_detection, is_target = labels >= 0, target_labels != -1
        self.detections.append(torch.cat([boxes, scores[..., None], labels[..., None]], dim=-1)[is_detection])
        self.detection_counts.append(is_detection.sum(dim=1))
        self.targets.append(torch.cat([target_boxes, target_labels[..., None]], dim=-1)[is_target])
        self.target_counts.append(is_target.sum(dim=1))

    def compute(self) -> dict[str, Any]:
        """Return precision (`map`, `map_50`, `map_small`, ...) and recall (`mar_1`, ...); nan without targets."""
        values = self._evaluated().compute()
        return {name: torch.where(values[name] < 0, torch.nan, values[name]) for name in _REPORTED}

    def by_class(self) -> ClassPrecision:
        """Return precision and recall of each class, and the curves that average precision is the area below."""
        metric = self._evaluated(class_metrics=True, extended_summary=True)
        values = metric.compute()
        classes = values["classes"].reshape(-1).tolist()
        shape = (len(metric.iou_thresholds), len(metric.rec_thresholds), len(classes))
        # (T, R, C, areas, numbers of detections): objects of all areas, and 100 detections per image.
        curves = [values[name][..., 0, -1].numpy() if name in values else np.full(shape, -1.0) for name in _CURVES]
        ious, precision = [round(float(iou), 2) for iou in metric.iou_thresholds], curves[0]
        of_class = {
            "AP": values["map_per_class"],
            **{
                f"AP{round(100 * iou)}": torch.from_numpy(precision[ious.index(iou)].mean(axis=0))
                for iou in (0.5, 0.75)
            },
            "AR100": values["mar_100_per_class"],
        }
        named = {name: each.reshape(-1)[: len(classes)].double().numpy() for name, each in of_class.items()}
        undefined = {name: np.where(each < 0, np.nan, each) for name, each in named.items()}
        return ClassPrecision(classes, undefined, ious, [*map(float, metric.rec_thresholds)], precision, curves[1])

    def _evaluated(self, **options: Any) -> MeanAveragePrecision:
        """Return torchmetrics' metric of all images."""
        detections = _split_by_image(self.detections, self.detection_counts)
        targets = _split_by_image(self.targets, self.target_counts)
        # pycocotools takes six times as long
        metric = MeanAveragePrecision(backend="faster_coco_eval", **options)
        metric.update(
            [{"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()} for rows in detections],
            [_as_target(rows[:, :4], rows[:, 4].long()) for rows in targets],
        )
        return metric


def detection_metrics() -> MetricCollection:
    """Create COCO's mean average precision and recall, see `PaddedMeanAveragePrecision`."""
    return MetricCollection({"MeanAveragePrecision": PaddedMeanAveragePrecision()})


def _as_target(boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    ignored = is_ignored(labels)
    classes = torch.where(ignored, ignored_classes(labels), labels)
    return {"boxes": boxes, "labels": classes, "iscrowd": ignored.long()}


def _split_by_image(rows: list[Tensor] | Tensor, counts: list[Tensor] | Tensor) -> tuple[Tensor, ...]:
    return torch.split(dim_zero_cat(rows), dim_zero_cat(counts).tolist())
