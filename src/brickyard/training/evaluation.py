"""Measure a model on a data set."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from brickyard.collection import BrickCollection
from brickyard.data.batches import evaluation_batches
from brickyard.data.labelled import LabelledPictures
from brickyard.tags import Stage, Tag
from brickyard.training.matching import check_labels

_TAGS = Stage.TEST.tags - {Tag.LOSS}


def evaluate(
    model: BrickCollection,
    data: LabelledPictures,
    *,
    batch_size: int = 32,
    workers: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Compute every metric of a model that is one number; on one machine, always the same ones.

    Args:
        model: It is copied.
        data: What to measure on.
        batch_size: Pictures at a time, about.
        workers: Processes that read pictures, 0 to read them in this one.
        device: Where it runs, by default the GPU if there is one.
        progress: Show a bar.

    Returns:
        The metrics by their place: `seg/MeanIoU`, `det/map_50`, ...

    Raises:
        BrickMismatchError: The data has no labels for the model, or those of other classes.
    """
    check_labels(model, data)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    measured = BrickCollection(copy.deepcopy(model).to_dict())  # with metrics that have gathered nothing
    measured.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    batches = evaluation_batches(data, batch_size, workers=workers)
    with torch.inference_mode():
        for batch in tqdm(batches, unit="batch", disable=not progress):
            measured({name: _on(device, value) for name, value in batch.items()}, tags=_TAGS, skip_missing=True)
    summary = measured.summarize(reset=True)
    return {name: float(value) for name, value in summary.items() if isinstance(value, Tensor) and value.numel() == 1}


def _on(device: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _on(device, entry) for name, entry in value.items()}
    return [_on(device, entry) for entry in value] if isinstance(value, list) else value
