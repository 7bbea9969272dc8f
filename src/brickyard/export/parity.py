"""Compare the outputs of an exported file with those of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from brickyard.core.specs import InputSpec
from brickyard.errors import BrickMismatchError
from brickyard.export.trace import AXES, Trace

Arrays = Mapping[str, npt.NDArray[Any]]
_TOLERANCE = 1e-4  # of values of float32 models, relative to the largest absolute value where that exceeds 1
_EPSILONS = 10  # the tolerance of models of lower precision, in units of the spacing of their numbers at 1
_BOX_TOLERANCE = 0.1  # pixels, of float32 models
_DIFFERING_INTEGERS = 1e-3  # the fraction that may differ, of float32 models
_LOCATIONS = ("boxes", "points")  # of detections: outputs of a head with scores and labels
_OF_OBJECTS = ("masks", "keypoints")  # outputs of a head with one row for each box
_MASK_TOLERANCE = 1e-3  # of the probabilities of masks and key points, of float32 models
_DIFFERING_CELLS = 0.02  # the fraction of a mask that may differ: cells at the edge of its box
_EXTRA_PIXELS = 64  # added to a dynamic height or width in the second comparison


def check_parity(
    traced: Trace, run: Callable[[Arrays], Arrays], images: InputSpec, dynamic: Sequence[str], location: str
) -> None:
    """Compare an exported file with the model on random images, at other sizes than the model was traced with.

    Args:
        traced: The traced model.
        run: Runs the file: arrays by input name -> arrays by output name.
        images: The input images of the file.
        dynamic: The dynamic axes, some of `AXES`.
        location: The name of the file, for error messages.

    Raises:
        BrickMismatchError: The file does not run, or its outputs differ.
    """
    shape = traced.example["image"].shape
    tolerance = _tolerance_of(traced.module)
    larger = [shape[AXES[axis]] + _EXTRA_PIXELS * (axis in dynamic) for axis in ("height", "width")]
    for batch, size in ((1, images.size), (3, larger)):
        count = batch if "batch" in dynamic else shape[0]
        inputs = {"image": torch.rand(count, shape[1], *size)}
        expected = {name: value.numpy() for name, value in traced.run(inputs).items()}
        try:
            problems = differences(expected, run({name: value.numpy() for name, value in inputs.items()}), tolerance)
        except Exception as error:  # the runtimes raise exceptions of any type
            problems = [f"it does not run: {error}"]
        if problems:
            shape_text = "x".join(map(str, inputs["image"].shape))
            raise BrickMismatchError(
                f"{location} was not written: for images {shape_text} its outputs differ from the model's", problems
            )


def _tolerance_of(module: nn.Module) -> float:
    """Return the tolerance for the lowest precision of a module's floating-point weights."""
    dtypes = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    return max([_TOLERANCE, *(_EPSILONS * torch.finfo(dtype).eps for dtype in dtypes)])


def differences(expected: Arrays, found: Arrays, tolerance: float = _TOLERANCE) -> list[str]:
    """Describe how outputs differ, one sentence per output; an empty list if they agree within the tolerances.

    Floats may differ by `tolerance`, relative to the largest absolute value where that exceeds 1. Of integers, one
    value in a thousand may differ, because argmax may break ties differently. Detections (a head with all of `boxes`,
    or `points`, `scores` and `labels`) are compared as sets, because detections with nearly equal scores may swap: each
    needs a counterpart with the same label, a score within `tolerance` and coordinates within 0.1 pixels, and, where
    the head has them, the same `masks` and `keypoints`, within 0.1 pixels. The limits in pixels grow with the tolerance
    as well.

    Example:
        >>> differences({"logits": np.zeros(2)}, {"logits": np.ones(2)})
        ["'logits': values differ by up to 1, tolerance 0.0001"]
    """
    problems, compared_as_sets = [], set()
    for location in (name for name in expected if name.rpartition("/")[2] in _LOCATIONS):
        head = location.rpartition("/")[0]
        keys = {"location": location, **{key: f"{head}/{key}" for key in ("scores", "labels", *_OF_OBJECTS)}}
        keys = {key: name for key, name in keys.items() if name in expected and name in found}
        if {"location", "scores", "labels"} <= keys.keys():
            compared_as_sets |= set(keys.values())
            first, second = ({key: arrays[name] for key, name in keys.items()} for arrays in (expected, found))
            problems += [f"{head}: {problem}" for problem in _differing_detections(first, second, tolerance)]
    for name, array in expected.items():
        if name not in found:
            problems.append(f"'{name}' is missing")
        elif name not in compared_as_sets and (difference := _difference(array, found[name], tolerance)):
            problems.append(f"'{name}': {difference}")
    return problems


def _difference(expected: npt.NDArray[Any], found: npt.NDArray[Any], tolerance: float) -> str:
    if expected.shape != found.shape:
        return f"expected the shape {expected.shape}, found {found.shape}"
    if expected.dtype.kind in "iub":
        share = float(np.mean(expected != found)) if expected.size else 0.0
        return f"{share:.2%} of the values differ" if share > _DIFFERING_INTEGERS * tolerance / _TOLERANCE else ""
    if not expected.size:
        return ""
    largest = float(np.abs(expected - found).max())
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    return "" if largest <= allowed else f"values differ by up to {largest:.3g}, tolerance {allowed:.3g}"


def _differing_detections(expected: Arrays, found: Arrays, tolerance: float) -> list[str]:
    """Describe missing and additional detections.

    Args:
        expected: location, boxes (B, N, 4) or points (B, N, 2), scores (B, N), labels (B, N) and any outputs of
            `_OF_OBJECTS`, (B, N, ...).
        found: The same.
        tolerance: Of scores; that of coordinates is in proportion.
    """
    pixels = _BOX_TOLERANCE * tolerance / _TOLERANCE
    problems = []
    for image in range(len(expected["location"])):
        locations, labels = expected["location"][image], expected["labels"][image]
        for index in np.flatnonzero(labels >= 0):
            is_match = (
                (found["labels"][image] == labels[index])
                & (np.abs(found["scores"][image] - expected["scores"][image, index]) <= tolerance)
                & (np.abs(found["location"][image] - locations[index]).max(axis=1) <= pixels)
            )
            if not is_match.any():
                problems.append(f"image {image} lacks the detection at {locations[index].round(1).tolist()}")
                continue
            for name in (name for name in _OF_OBJECTS if name in expected):
                candidates = found[name][image][is_match]
                if not any(_is_same(name, each, expected[name][image, index], tolerance) for each in candidates):
                    problems.append(f"image {image} has other {name} in the box {locations[index].round(1).tolist()}")
    surplus = (found["labels"] >= 0).sum(axis=1) - (expected["labels"] >= 0).sum(axis=1)
    return problems + [f"image {image} has {count} more detections" for image, count in enumerate(surplus) if count > 0]


def _is_same(name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> bool:
    """Compare the mask (h, w) or the key points (J, 3) of one object."""
    if name == "masks":
        limit = _MASK_TOLERANCE * tolerance / _TOLERANCE
        return float(np.mean(np.abs(found - expected) > limit)) <= _DIFFERING_CELLS
    limits = np.array([_BOX_TOLERANCE, _BOX_TOLERANCE, _MASK_TOLERANCE]) * tolerance / _TOLERANCE
    return bool((np.abs(found - expected) <= limits).all())
