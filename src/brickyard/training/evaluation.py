"""Measure the metrics of a model, or of an exported file, on a data set."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from brickyard.collection import BrickCollection
from brickyard.core.metrics import BrickMetrics
from brickyard.core.specs import InputSpec
from brickyard.core.tags import Stage, Tag
from brickyard.data.batches import checked, evaluation_batches, to_device
from brickyard.data.dataset import LabelledDataset
from brickyard.errors import BrickMismatchError
from brickyard.inference.runners import OnnxRunner
from brickyard.recipe.inspection import heads_of, images_of
from brickyard.training.matching import check_labels, without_unread_masks

OnBatch = Callable[[BrickCollection, Mapping[str, Any], Mapping[str, Any]], None]
_TAGS = Stage.TEST.tags - {Tag.LOSS}
_DATA_PREFIXES = ("image", "targets/", "labelled/")
_HINT = "Evaluate the model itself, or export it again with these values among its outputs."


def evaluate(
    model: BrickCollection | str | os.PathLike[str],
    data: LabelledDataset,
    *,
    batch_size: int = 32,
    workers: int = 0,
    device: str | None = None,
    progress: bool = False,
    on_batch: OnBatch | None = None,
) -> dict[str, float]:
    """Compute every scalar metric of a model on a data set. Results are reproducible on one machine.

    A warning tells if the images have another size than those that the heads were trained on.

    Args:
        model: A model, which is copied, or the path of a file or folder written by `export_onnx` or `quantize_onnx`.
        data: The labelled data set.
        batch_size: Approximate number of images per batch.
        workers: Number of data loading processes; 0 loads in this process.
        device: Device of the model, by default "cuda" if available, else "cpu"; of a file, see `OnnxRunner`.
        progress: Whether to show a progress bar.
        on_batch: Called after each batch, in the order of the data, with the collection that is measured, the batch on
            its device, and all values of it: inputs and outputs.

    Returns:
        The metrics by their path: `seg/MeanIoU`, `det/map_50`, ... Of a file, those whose inputs are among its
        outputs; a warning names the others.

    Raises:
        BrickMismatchError: The data has no labels for the model or labels of other classes, or no metric can be
            computed from the outputs of the file.
        BrickInputError: The file does not take images of this size, or the device is not available.
        BrickNotFoundError, BrickIntegrityError, MissingExtraError: The file does not exist, is damaged, or onnxruntime
            is not installed.
    """
    if isinstance(model, BrickCollection):
        measured = BrickCollection(copy.deepcopy(model).to_dict())  # a new collection resets its metrics
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    else:
        measured, device = _collection_of_file(os.fspath(model), device), "cpu"
    check_labels(measured, data)
    _check_image_size(measured, data)
    measured.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    batches = evaluation_batches(without_unread_masks(data, measured), batch_size, workers=workers)
    with torch.inference_mode():
        for batch in tqdm(batches, unit="batch", disable=not progress):
            named_inputs = {name: to_device(value, device) for name, value in checked(batch).items()}
            values = measured(named_inputs, tags=_TAGS, skip_missing=True)
            if on_batch is not None:
                on_batch(measured, named_inputs, values)
    summary = measured.summarize(reset=True)
    return {name: float(value) for name, value in summary.items() if isinstance(value, Tensor) and value.numel() == 1}


def input_of(model: BrickCollection | str | os.PathLike[str]) -> InputSpec | None:
    """Return the images that a model takes, None if it does not declare them.

    Args:
        model: A model, or the path of a file or folder written by `export_onnx` or `quantize_onnx`.
    """
    return images_of(model.bricks()) if isinstance(model, BrickCollection) else OnnxRunner(model).images


def _check_image_size(model: BrickCollection, data: LabelledDataset) -> None:
    """Warn if images have another size than those that the heads were trained on: the metrics can be much lower."""
    heads = heads_of(model.bricks())
    trained = {heads[head].image_size: head for head in data.labels if head in heads and heads[head].image_size}
    if not trained or not len(data):
        return
    height, width = data[0]["image"].shape[-2:]
    for size, head in trained.items():
        if size is not None and size != (height, width):
            expected = f"head '{head}' was trained on images of {size[0]}x{size[1]} pixels (H x W)"
            warnings.warn(f"{expected} and is evaluated on images of {height}x{width}.", stacklevel=3)


def _collection_of_file(file: str, device: str | None) -> BrickCollection:
    """Load an exported file as a collection, and check which of its metrics can be computed from its outputs."""
    collection = OnnxRunner(file, device).to_collection()
    bricks = collection.bricks()
    written = {name for brick in bricks.values() for name in brick.writes}
    metrics = [path for path, brick in bricks.items() if isinstance(brick, BrickMetrics)]
    problems = {}
    for path in metrics:
        inputs = [name for name in bricks[path].required if not name.startswith(_DATA_PREFIXES)]
        if missing := [name for name in inputs if name not in written]:
            problems[path] = f"'{path}' reads {missing}, which the file does not output"
    if len(problems) == len(metrics):
        reasons = list(problems.values()) or ["it holds no metrics (metrics of custom classes are not exported)"]
        raise BrickMismatchError(f"{file} cannot be evaluated", [*reasons, _HINT])
    if problems:
        warnings.warn(f"{file}: metrics left out: {'; '.join(problems.values())}. {_HINT}", stacklevel=3)
    return collection
