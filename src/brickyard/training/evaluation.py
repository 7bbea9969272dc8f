"""Measure a model, or a file that was exported of one, on a data set."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from brickyard.collection import BrickCollection
from brickyard.core.metrics import BrickMetrics
from brickyard.core.tags import Stage, Tag
from brickyard.data.batches import checked, evaluation_batches
from brickyard.data.dataset import LabelledDataset
from brickyard.errors import BrickMismatchError
from brickyard.inference.runners import OnnxRunner
from brickyard.training.matching import check_labels

_TAGS = Stage.TEST.tags - {Tag.LOSS}
_OF_DATA = ("image", "targets/", "labelled/")
_HINT = "Measure the model itself, or export it again with these values among its outputs."


def evaluate(
    model: BrickCollection | str | os.PathLike[str],
    data: LabelledDataset,
    *,
    batch_size: int = 32,
    workers: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Compute every metric of a model that is one number; on one machine, always the same ones.

    Args:
        model: A model, which is copied, or the path of a file that `export_onnx` or `quantize_onnx` wrote.
        data: What to measure on.
        batch_size: Pictures at a time, about.
        workers: Processes that read pictures, 0 to read them in this one.
        device: Where it runs, by default the GPU if there is one; of a file, if onnxruntime can use it.
        progress: Show a bar.

    Returns:
        The metrics by their place: `seg/MeanIoU`, `det/map_50`, ... Of a file, those whose values it gives: where
        it lacks some, a warning says which.

    Raises:
        BrickMismatchError: The data has no labels for the model, or those of other classes; or a file that no metric
            can read.
        BrickInputError: Pictures of a size that the file does not take, or no such device.
        BrickNotFoundError, BrickIntegrityError, MissingExtraError: There is no such file, or nothing to run it.
    """
    if isinstance(model, BrickCollection):
        measured = BrickCollection(copy.deepcopy(model).to_dict())  # with metrics that have gathered nothing
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    else:
        measured, device = _of_file(os.fspath(model), device), "cpu"
    check_labels(measured, data)
    measured.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    batches = evaluation_batches(data, batch_size, workers=workers)
    with torch.inference_mode():
        for batch in tqdm(batches, unit="batch", disable=not progress):
            named = {name: _on(device, value) for name, value in checked(batch).items()}
            measured(named, tags=_TAGS, skip_missing=True)
    summary = measured.summarize(reset=True)
    return {name: float(value) for name, value in summary.items() if isinstance(value, Tensor) and value.numel() == 1}


def _of_file(file: str, device: str | None) -> BrickCollection:
    """A file as a collection; labels aside, its metrics have what they read."""
    collection = OnnxRunner(file, device).to_collection()
    bricks = collection.bricks()
    made = {name for brick in bricks.values() for name in brick.writes}
    metrics = [path for path, brick in bricks.items() if isinstance(brick, BrickMetrics)]
    lacking = {}
    for path in metrics:
        needed = [name for name in bricks[path].required if not name.startswith(_OF_DATA)]
        if absent := [name for name in needed if name not in made]:
            lacking[path] = f"'{path}' reads {absent}, which the file does not give"
    if len(lacking) == len(metrics):
        problems = list(lacking.values()) or ["it holds no metric; those of your own classes no file can hold"]
        raise BrickMismatchError(f"{file} cannot be measured", [*problems, _HINT])
    if lacking:
        warnings.warn(f"{file}: not measured: {'; '.join(lacking.values())}. {_HINT}", stacklevel=3)
    return collection


def _on(device: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _on(device, entry) for name, entry in value.items()}
    return [_on(device, entry) for entry in value] if isinstance(value, list) else value
