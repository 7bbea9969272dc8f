"""Settings of a predictor: the defaults that are stored with a model, and what a caller changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from brickyard.core.specs import InputSpec
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.errors import BrickError, BrickInputError, UnknownNameError
from brickyard.inference.runners import Runner
from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.classification import DrawClassification
from brickyard.parts.drawing.instances import DrawInstances
from brickyard.parts.drawing.keypoints import DrawKeypoints
from brickyard.parts.drawing.points import DrawPoints
from brickyard.tasks.selection import Selection


def drawing_bricks(runner: Runner) -> dict[str, Any]:
    """Return the visualization brick of each head that has one."""
    bricks = {head: runner.auxiliary.bricks().get(f"{head}/visualization") for head in runner.heads}
    return {head: brick for head, brick in bricks.items() if isinstance(brick, BrickPerImageVisualization)}


def draw_outputs(
    brick: BrickPerImageVisualization, head: str, image: npt.NDArray[Any], outputs: Mapping[str, Any]
) -> Image.Image:
    """Draw the outputs of a head for one image.

    Args:
        brick: The visualization brick of the head.
        head: The prefix of the head.
        image: (H, W, C).
        outputs: What `Task.on_image` returned for this image.

    Raises:
        KeyError: An output that the brick reads is missing.
    """
    values = {"image": image, **{f"{head}/{name}": value for name, value in outputs.items()}}
    names = brick.input_names
    if isinstance(names, Mapping):
        drawn: Image.Image = brick.callable(**{argument: values[name] for argument, name in names.items()})
    else:
        drawn = brick.callable(*(values[name] for name in names))
    return drawn


def selections(
    heads: Mapping[str, Mapping[str, Any]],
    drawing: Mapping[str, Any],
    threshold: float | None,
    topk: int | None,
    classes: Sequence[str] | None,
) -> dict[str, Selection]:
    """Choose what is reported for each head, and let its visualization draw all of it.

    Args:
        heads: The metadata of each head.
        drawing: The visualization bricks, whose parts have the defaults; their own limits are lifted.
        threshold: See `Predictor`.
        topk: See `Predictor`.
        classes: See `Predictor`.

    Raises:
        UnknownNameError: No head has a class of this name.
    """
    known = list(dict.fromkeys(label for metadata in heads.values() for label in metadata["labels"]))
    for label in classes or ():
        if label not in known:
            raise UnknownNameError("class", label, known)
    chosen = {}
    for head, metadata in heads.items():
        labels = metadata["labels"]
        part = drawing[head].callable if head in drawing else None
        stored = Selection()
        if isinstance(part, (DrawBoxes, DrawInstances, DrawPoints)):
            stored = Selection(threshold=part.score_threshold)
            part.score_threshold = 0.0
        elif isinstance(part, DrawKeypoints) and threshold is not None:  # by default each keypoint is reported
            part.score_threshold = 0.0
        elif isinstance(part, DrawClassification):
            stored = Selection(topk=part.top)
            part.top = len(labels)
        chosen[head] = Selection(
            threshold=stored.threshold if threshold is None else threshold,
            topk=stored.topk if topk is None else topk,
            classes=None if classes is None else tuple(i for i, label in enumerate(labels) if label in classes),
        )
    return chosen


def resized_spec(runner: Runner, image_size: int | tuple[int, int]) -> InputSpec:
    """Return the input of a model with another image size, after a trial with one image.

    Raises:
        BrickInputError: The model does not take this size.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise BrickInputError("image_size", "1 pixel or more", f"{height}x{width}")
    try:
        runner({"image": np.zeros((1, runner.images.channels, height, width), np.uint8)})
    except BrickError:
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise BrickInputError("image_size", "a size that the model takes", f"{height}x{width} ({error})") from None
    return replace(runner.images, size=(height, width))
