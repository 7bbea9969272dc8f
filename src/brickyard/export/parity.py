"""Whether an exported file gives what the model gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from brickyard.core.specs import InputSpec
from brickyard.errors import BrickMismatchError
from brickyard.export.trace import AXES, Trace

Arrays = Mapping[str, npt.NDArray[Any]]
_TOLERANCE = 1e-4  # of values, relative to the largest of them where that is over 1
_PIXELS = 0.1  # of boxes
_LARGER = 64  # pixels


def check_parity(
    traced: Trace, run: Callable[[Arrays], Arrays], images: InputSpec, dynamic: Sequence[str], what: str
) -> None:
    """Compare an exported file with the model, at other sizes than it was traced with.

    Args:
        traced: The model.
        run: The file, from arrays to arrays by name.
        images: That the file is for.
        dynamic: What may vary.
        what: The file's name.

    Raises:
        BrickMismatchError: They differ.
    """
    shape = traced.example["image"].shape
    larger = [shape[AXES[axis]] + _LARGER * (axis in dynamic) for axis in ("height", "width")]
    for batch, size in ((1, images.size), (3, larger)):
        count = batch if "batch" in dynamic else shape[0]
        inputs = {"image": torch.rand(count, shape[1], *size)}
        expected = {name: value.numpy() for name, value in traced.named(inputs).items()}
        try:
            problems = differences(expected, run({name: value.numpy() for name, value in inputs.items()}))
        except Exception as error:  # of every kind: they come from deep inside what runs the file
            problems = [f"it does not run: {error}"]
        if problems:
            location = "x".join(map(str, inputs["image"].shape))
            raise BrickMismatchError(f"{what} would not give what the model gives for images {location}", problems)


def differences(expected: Arrays, found: Arrays) -> list[str]:
    """How outputs differ: one sentence for each that does.

    Floats may differ by 1e-4, relative to the largest where that is over 1; integers in one of a thousand, where two
    values tie. Detections (`<head>/boxes`, `scores` and `labels`, where all are there) are compared as sets, since
    nearly equal scores may swap: for each, one with its label, its score within 1e-4 and its corners within 0.1 pixel.
    """
    problems, sets = [], set()
    for head in (name.removesuffix("/boxes") for name in expected if name.endswith("/boxes")):
        keys = [f"{head}/{key}" for key in ("boxes", "scores", "labels")]
        if all(key in expected and key in found for key in keys):
            sets |= set(keys)
            missing = _missing(*(expected[key] for key in keys), *(found[key] for key in keys))
            problems += [f"{head}: {each}" for each in missing]
    for name, array in expected.items():
        if name not in found:
            problems.append(f"'{name}' is missing")
        elif name not in sets and (difference := _difference(array, found[name])):
            problems.append(f"'{name}': {difference}")
    return problems


def _difference(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> str:
    if expected.shape != found.shape:
        return f"expected the shape {expected.shape}, found {found.shape}"
    if expected.dtype.kind in "iub":
        share = float(np.mean(expected != found)) if expected.size else 0.0
        return f"{share:.2%} of the values differ" if share > 1e-3 else ""
    if not expected.size:
        return ""
    largest = float(np.abs(expected - found).max())
    allowed = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    return "" if largest <= allowed else f"values differ by up to {largest:.3g}, allowed are {allowed:.3g}"


def _missing(*arrays: npt.NDArray[Any]) -> list[str]:
    """The detections of one side that the other lacks; boxes (B, N, 4), scores (B, N), labels (B, N), of each side."""
    boxes, scores, labels, found_boxes, found_scores, found_labels = arrays
    problems = []
    for picture in range(len(boxes)):
        for index in np.flatnonzero(labels[picture] >= 0):
            alike = (
                (found_labels[picture] == labels[picture, index])
                & (np.abs(found_scores[picture] - scores[picture, index]) <= _TOLERANCE)
                & (np.abs(found_boxes[picture] - boxes[picture, index]).max(axis=1) <= _PIXELS)
            )
            if not alike.any():
                problems.append(f"picture {picture} lacks the box {boxes[picture, index].round(1).tolist()}")
    counts = (labels >= 0).sum(axis=1) - (found_labels >= 0).sum(axis=1)
    return problems + [f"picture {row} has {-extra} more boxes" for row, extra in enumerate(counts) if extra < 0]
