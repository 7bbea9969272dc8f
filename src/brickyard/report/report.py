"""A report of an evaluation, in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch

from brickyard.collection import BrickCollection
from brickyard.core.csv_files import write_csv
from brickyard.data.dataset import LabelledDataset
from brickyard.recipe.inspection import heads_of
from brickyard.report.figures import check_plots
from brickyard.report.heads import HeadReport, report_of
from brickyard.report.worst import WorstImages


@final
class EvaluationReport:
    """Collect what is reported of each head, and write it as tables and images.

    `evaluate(model, data, on_batch=report.update)` adds the batches; `write` writes, by head:

    - `<head>_classes.csv`: the metrics of each class (`cls`, `seg`, `det`),
    - `<head>_confusion.csv` and `.png`: the confusion matrix (single-label `cls`, `seg`),
    - `<head>_precision_recall.csv` and `.png`: the curves (`cls-multilabel`, `det`),
    - `<head>_worst.png` and `.csv`: the images with the highest loss, see `WorstImages`; not of an exported file, which
      has no losses.

    Args:
        data: The data set of the evaluation.
        worst: The number of the worst images to draw.

    Raises:
        MissingExtraError: matplotlib, of the extra `train`, is not installed.
    """

    def __init__(self, data: LabelledDataset, worst: int = 16) -> None:
        check_plots()
        self._heads: dict[str, HeadReport] = {}
        self._worst = WorstImages(data, worst)
        self._model: BrickCollection | None = None

    def update(self, model: BrickCollection, named_inputs: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Add a batch, see `on_batch` of `evaluate`."""
        if self._model is None:
            self._model = model
            reports = {head: report_of(head, info) for head, info in heads_of(model.bricks()).items()}
            self._heads = {head: report for head, report in reports.items() if report is not None}
        for report in self._heads.values():
            report.update(values)
        if self._worst.count:
            self._worst.update(model, named_inputs, values)

    def write(self, folder: Path, metrics: Mapping[str, float]) -> list[str]:
        """Write the report.

        Args:
            folder: Created if it does not exist; files of an earlier report are replaced.
            metrics: What `evaluate` returned, for `metrics.csv`.

        Returns:
            The names of all files of the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / "metrics.csv", ["metric", "value"], metrics.items())
        for report in self._heads.values():
            if report.num_images:
                report.write(folder)
        if self._model is not None:
            with torch.inference_mode():  # the batches are inference tensors
                self._worst.write(folder, self._model)
        return sorted(file.name for file in folder.iterdir())
