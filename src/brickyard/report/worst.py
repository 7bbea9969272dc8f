"""The images that a model is worst at, drawn with prediction and label side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from brickyard.collection import BrickCollection
from brickyard.core.conversions import torch_to_numpy
from brickyard.core.csv_files import write_csv
from brickyard.core.losses import find_losses
from brickyard.core.names import join
from brickyard.core.tags import Stage, Tag
from brickyard.data.batches import to_device
from brickyard.data.dataset import LabelledDataset
from brickyard.data.geometry import resize_geometry
from brickyard.data.label_drawing import LabelDrawing, enlarged, image_of
from brickyard.data.label_kinds import LABELLED, TARGETS
from brickyard.inference.settings import draw_outputs
from brickyard.parts.drawing.canvas import side_by_side
from brickyard.parts.drawing.sheet import contact_sheet
from brickyard.recipe.inspection import heads_of
from brickyard.tasks.anomaly import AnomalyDetection
from brickyard.tasks.registry import get_task
from brickyard.tasks.task import Task

_COLUMNS = 3  # pairs of images side by side


@final
@dataclass(frozen=True)
class _Case:
    """An image with its labels, as a batch of one, and how wrong the prediction is."""

    error: float
    index: int
    named_inputs: Mapping[str, Any]


@final
class WorstImages:
    """Keep the images with the highest loss of each head.

    The loss of an image is that of a batch with this image alone. The loss of `anomaly` says nothing about the
    prediction: there, it is the distance between score and label. Heads whose task cannot draw its labels are left out.

    Args:
        data: The data set of the evaluation, whose labels are drawn.
        count: The number of images to keep for each head.
    """

    def __init__(self, data: LabelledDataset, count: int) -> None:
        self.count = count
        self._drawing, self._kinds = LabelDrawing(data), data.kinds
        self._cases: dict[str, list[_Case]] = {}
        self._num_images = 0

    def update(self, model: BrickCollection, named_inputs: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Add a batch with all values that the model computed of it."""
        errors = _errors_of(model)
        size = len(named_inputs["image"])
        rows = {name: value for name, value in named_inputs.items() if isinstance(value, (Tensor, list))}
        for row in range(size):
            one = {name: value[row : row + 1] for name, value in rows.items()}
            losses = model(one, tags={Tag.MODEL, Tag.LOSS}, skip_missing=True)
            for head, error_of in errors.items():
                labelled = one.get(f"{LABELLED}{head}")
                if f"{TARGETS}{head}" not in one or (labelled is not None and not labelled[0]):
                    continue
                error = error_of({**losses, **_row_of_outputs(head, values, row)})
                if error is not None:
                    self._keep(
                        head, _Case(inf if isnan(error) else error, self._num_images + row, to_device(one, "cpu"))
                    )
        self._num_images += size

    def write(self, folder: Path, model: BrickCollection) -> None:
        """Write a contact sheet for each head, the worst image first, and a table of the images and their errors.

        Args:
            folder: An existing folder.
            model: The model of `update`.
        """
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        for head, cases in self._cases.items():
            images = [self._drawn(model, head, to_device(case.named_inputs, device)) for case in cases]
            captions = [f"image {case.index}: error {case.error:.3g}" for case in cases]
            name = f"{head.replace('/', '_')}_worst"
            contact_sheet(images, captions, _COLUMNS).save(folder / f"{name}.png")
            write_csv(folder / f"{name}.csv", ["image", "error"], [[case.index, case.error] for case in cases])

    def _keep(self, head: str, case: _Case) -> None:
        cases = self._cases.setdefault(head, [])
        cases.append(case)
        cases.sort(key=lambda each: (-each.error, each.index))
        del cases[self.count :]

    def _drawn(self, model: BrickCollection, head: str, named_inputs: Mapping[str, Any]) -> Image.Image:
        """Draw prediction and label side by side, of a small image both on the enlarged image."""
        brick, info = model[join(head, "visualization")], heads_of(model.bricks())[head]
        values = model(named_inputs, tags=Stage.INFERENCE.tags, skip_missing=True)
        outputs = {
            name.removeprefix(f"{head}/"): torch_to_numpy(value[0])
            for name, value in values.items()
            if name.startswith(f"{head}/") and isinstance(value, Tensor) and value.ndim
        }
        sample = {
            name: value[0] for name, value in to_device(named_inputs, "cpu").items() if not name.startswith(LABELLED)
        }
        size = (int(sample["image"].shape[-2]), int(sample["image"].shape[-1]))
        sample = enlarged({name: value for name, value in sample.items() if self._is_known(name)}, self._kinds)
        image = np.asarray(image_of(sample))
        geometry = resize_geometry((image.shape[0], image.shape[1]), size, "squash")
        prediction = draw_outputs(brick, head, image, get_task(info.task).on_image(outputs, geometry))
        label = self._drawing(sample, head) or image_of(sample)
        return side_by_side({"prediction": prediction, "label": label})

    def _is_known(self, name: str) -> bool:
        return not name.startswith(TARGETS) or name.removeprefix(TARGETS) in self._kinds


def _errors_of(model: BrickCollection) -> dict[str, Callable[[Mapping[str, Any]], float | None]]:
    """Return a function for each head that can be drawn, from the values of an image to how wrong it is."""
    bricks = model.bricks()
    functions: dict[str, Callable[[Mapping[str, Any]], float | None]] = {}
    for head, info in heads_of(bricks).items():
        task = get_task(info.task)
        can_draw = type(task).labels_as_outputs is not Task.labels_as_outputs
        if not can_draw or join(head, "visualization") not in bricks:
            continue
        if isinstance(task, AnomalyDetection):
            functions[head] = _anomaly_error(head)
        elif join(head, "loss") in bricks:
            functions[head] = _loss(bricks[join(head, "loss")])
    return functions


def _loss(brick: Any) -> Callable[[Mapping[str, Any]], float | None]:
    def loss(values: Mapping[str, Any]) -> float | None:
        found = find_losses([brick], values)
        return float(sum(found.values())) if found else None

    return loss


def _anomaly_error(head: str) -> Callable[[Mapping[str, Any]], float | None]:
    def error(values: Mapping[str, Any]) -> float | None:
        score, target = values.get(join(head, "score")), values.get(f"{TARGETS}{head}")
        return None if score is None or target is None else abs(float(score) - float(target))

    return error


def _row_of_outputs(head: str, values: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return the score of an image, if the head has one for each."""
    score = values.get(join(head, "score"))
    return {join(head, "score"): score[row]} if isinstance(score, Tensor) and score.ndim == 1 else {}
