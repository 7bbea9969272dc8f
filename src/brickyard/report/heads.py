"""What a report measures of a head, by the kind of its task: metrics of single classes, confusions and curves."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
    MultilabelAveragePrecision,
    MultilabelF1Score,
    MultilabelPrecision,
    MultilabelPrecisionRecallCurve,
    MultilabelRecall,
    MultilabelStatScores,
)

from brickyard.core.csv_files import Cell, write_csv
from brickyard.core.names import join
from brickyard.core.specs import HeadInfo
from brickyard.data.label_kinds import LABELLED, TARGETS, LabelKind
from brickyard.parts.detection.metrics import PaddedMeanAveragePrecision
from brickyard.parts.segmentation import IGNORED
from brickyard.report.figures import plot_confusion, plot_curves
from brickyard.tasks.cls import Classification
from brickyard.tasks.det import Detection
from brickyard.tasks.registry import get_task
from brickyard.tasks.seg import Segmentation

_NAN = float("nan")
_SHOWN_IOU, _IOUS = 0.5, (0.5, 0.75)  # of the curves that are plotted, and of those in the table


class HeadReport(ABC):
    """Measures a head over the batches of an evaluation.

    Args:
        head: The prefix of the head.
        labels: The K class names.
    """

    reads: tuple[str, ...]  # outputs, by the last part of their names

    def __init__(self, head: str, labels: Sequence[str]) -> None:
        self.head, self.labels = head, tuple(labels)
        self.num_images = 0

    def update(self, values: Mapping[str, Any]) -> None:
        """Add a batch, if it has the outputs and labels of the head; rows without a label are left out."""
        inputs = [values.get(join(self.head, name)) for name in self.reads]
        target, labelled = values.get(f"{TARGETS}{self.head}"), values.get(f"{LABELLED}{self.head}")
        if target is None or any(value is None for value in inputs):
            return
        outputs = [value.detach().cpu() for value in inputs if isinstance(value, Tensor)]
        if labelled is not None:
            rows = labelled.cpu()
            outputs = [value[rows] for value in outputs]
            target = target[rows.to(target.device)] if isinstance(target, Tensor) else target
        if not len(outputs[0]):
            return
        self.num_images += len(outputs[0])
        self.add(*outputs, target=target.cpu() if isinstance(target, Tensor) else target)

    @abstractmethod
    def add(self, *outputs: Any, target: Any) -> None:
        """Add the labelled rows of a batch: the values of `reads`, and the label."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the tables and plots to a folder."""

    def file(self, folder: Path, name: str) -> Path:
        """Return the path of a file of this head."""
        return folder / f"{self.head.replace('/', '_')}_{name}"


@final
class ConfusionReport(HeadReport):
    """Confusion matrix, and precision, recall, F1 and IoU of each class, of a head with one class per image or pixel.

    Args:
        head: The prefix of the head.
        labels: The K class names.
        of: What is counted, for the title of the plot.
        ignored: The label of images or pixels that do not count.
    """

    reads = ("class_prediction",)

    def __init__(self, head: str, labels: Sequence[str], of: str, ignored: int | None = None) -> None:
        super().__init__(head, labels)
        self._of = of
        options: dict[str, Any] = {"num_classes": len(labels), "ignore_index": ignored, "validate_args": False}
        each = {**options, "average": "none", "zero_division": _NAN}
        self._metrics = MetricCollection(
            {
                "precision": MulticlassPrecision(**each),
                "recall": MulticlassRecall(**each),
                "F1": MulticlassF1Score(**each),
                "IoU": MulticlassJaccardIndex(**each),
                "confusion": MulticlassConfusionMatrix(**options),
            },
            compute_groups=[["precision", "recall", "F1"], ["IoU", "confusion"]],
        )

    def add(self, *outputs: Any, target: Any) -> None:
        self._metrics.update(outputs[0], target)

    def write(self, folder: Path) -> None:
        values = {name: value.numpy() for name, value in self._metrics.compute().items()}
        matrix, names = values["confusion"], ["precision", "recall", "F1", "IoU"]
        columns = [*(values[name] for name in names), matrix.sum(axis=1), matrix.sum(axis=0)]
        header = ["class", *names, f"{self._of} with the label", f"{self._of} with the prediction"]
        write_csv(self.file(folder, "classes.csv"), header, _rows(self.labels, columns))
        header = ["label / prediction", *self.labels]
        write_csv(self.file(folder, "confusion.csv"), header, _rows(self.labels, [*matrix.T]))
        title = f"{self.head}: {int(matrix.sum())} {self._of} of {self.num_images} images"
        plot_confusion(self.file(folder, "confusion.png"), matrix, self.labels, title)


@final
class MultilabelReport(HeadReport):
    """Precision-recall curve and its average precision for each class, and precision, recall and F1 from 0.5 on."""

    reads = ("logits",)

    def __init__(self, head: str, labels: Sequence[str]) -> None:
        super().__init__(head, labels)
        options: dict[str, Any] = {"num_labels": len(labels), "validate_args": False}  # which refuses a single class
        each = {**options, "average": "none"}
        self._metrics = MetricCollection(
            {
                "AP": MultilabelAveragePrecision(**each),
                "precision": MultilabelPrecision(**each, zero_division=_NAN),
                "recall": MultilabelRecall(**each, zero_division=_NAN),
                "F1": MultilabelF1Score(**each, zero_division=_NAN),
                "counts": MultilabelStatScores(**each),
                "curve": MultilabelPrecisionRecallCurve(**options),
            },
            compute_groups=[["AP", "curve"], ["precision", "recall", "F1", "counts"]],
        )

    def add(self, *outputs: Any, target: Any) -> None:
        self._metrics.update(outputs[0].float().sigmoid(), target.long())

    def write(self, folder: Path) -> None:
        with _without_warnings_of_absent_classes():
            values = self._metrics.compute()
        precisions, recalls, thresholds = ([each.numpy() for each in part] for part in values.pop("curve"))
        support = values.pop("counts")[:, -1].numpy()
        columns = {name: values[name].numpy() for name in ("AP", "precision", "recall", "F1")}
        columns["AP"] = np.where(support > 0, columns["AP"], _NAN)
        header = ["class", *columns, "images with the label"]
        write_csv(self.file(folder, "classes.csv"), header, _rows(self.labels, [*columns.values(), support]))
        points: list[list[Cell]] = []
        curves = {}
        for index, name in enumerate(self.labels):
            recall, precision = (recalls[index], precisions[index]) if support[index] else (np.empty(0), np.empty(0))
            curves[name] = np.stack([recall, precision])
            scores = [*thresholds[index].tolist(), None][: len(recall)]
            points += [[name, *point] for point in zip(scores, recall.tolist(), precision.tolist(), strict=True)]
        write_csv(self.file(folder, "precision_recall.csv"), ["class", "threshold", "recall", "precision"], points)
        captions = [f"AP {ap:.2f}  {name}" for ap, name in zip(columns["AP"], self.labels, strict=True)]
        title = f"{self.head}: {self.num_images} images"
        plot_curves(self.file(folder, "precision_recall.png"), curves, captions, title)


@final
class BoxReport(HeadReport):
    """COCO's average precision and recall of each class, and its precision-recall curves."""

    reads = ("boxes", "scores", "labels", "target_boxes", "target_labels")

    def __init__(self, head: str, labels: Sequence[str]) -> None:
        super().__init__(head, labels)
        self._metric = PaddedMeanAveragePrecision()
        self._counts = np.zeros(len(labels), dtype=np.int64)

    def add(self, *outputs: Any, target: Any) -> None:
        self._metric.update(*outputs)
        classes = outputs[-1].numpy()
        self._counts += np.bincount(classes[classes >= 0], minlength=len(self.labels))

    def write(self, folder: Path) -> None:
        found = self._metric.by_class()
        columns = [np.full(len(self.labels), _NAN) for _ in found.values]
        for column, values in zip(columns, found.values.values(), strict=True):
            column[found.classes] = values
        header = ["class", *found.values, "objects"]
        write_csv(self.file(folder, "classes.csv"), header, _rows(self.labels, [*columns, self._counts]))
        points: list[list[Cell]] = []
        curves = {name: np.empty((2, 0)) for name in self.labels}
        for row, index in enumerate(found.classes):
            name = self.labels[index]
            for iou in _IOUS:
                precision, scores = (each[found.ious.index(iou), :, row] for each in (found.precision, found.scores))
                if (precision < 0).any():  # there is no object of the class
                    continue
                cells = zip(found.recalls, precision.tolist(), scores.tolist(), strict=True)
                points += [[name, iou, *cell] for cell in cells]
                if iou == _SHOWN_IOU:
                    curves[name] = np.stack([found.recalls, precision])
        header = ["class", "IoU", "recall", "precision", "score"]
        write_csv(self.file(folder, "precision_recall.csv"), header, points)
        captions = [f"AP50 {ap:.2f}  {name}" for ap, name in zip(columns[1], self.labels, strict=True)]
        title = f"{self.head}: {int(self._counts.sum())} objects in {self.num_images} images, IoU {_SHOWN_IOU}"
        plot_curves(self.file(folder, "precision_recall.png"), curves, captions, title)


def report_of(head: str, info: HeadInfo) -> HeadReport | None:
    """Return the report of a head by its task, None if there is none for the task."""
    task = get_task(info.task)
    kind = task.kinds(head, info.variant).get(f"{TARGETS}{head}")
    if isinstance(task, Classification) and kind is LabelKind.MULTI_HOT:
        return MultilabelReport(head, info.labels)
    if isinstance(task, Classification) and kind is LabelKind.CLASS_INDEX:
        return ConfusionReport(head, info.labels, "images")
    if isinstance(task, Segmentation) and kind is LabelKind.MASK:
        return ConfusionReport(head, info.labels, "pixels", IGNORED)
    if isinstance(task, Detection) and kind is LabelKind.BOXES:
        return BoxReport(head, info.labels)
    return None


def _rows(names: Sequence[str], columns: Sequence[npt.NDArray[Any]]) -> Iterator[list[Cell]]:
    """Yield a row for each class from columns (K,)."""
    for name, *cells in zip(names, *(column.tolist() for column in columns), strict=True):
        yield [name, *cells]


@contextmanager
def _without_warnings_of_absent_classes() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No positive samples found in target", UserWarning)
        yield
