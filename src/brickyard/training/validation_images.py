"""Draw the predictions for a batch next to its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from brickyard.collection import BrickCollection
from brickyard.core.names import join, prefix_of
from brickyard.core.tags import Stage, Tag
from brickyard.data.label_kinds import LABELLED, TARGETS
from brickyard.parts.drawing.canvas import side_by_side
from brickyard.recipe.inspection import heads_of
from brickyard.tasks.registry import get_task

_PREDICTION, _LABEL = "prediction", "label"


def draw_batch(
    collection: BrickCollection, named_inputs: Mapping[str, Any], count: int
) -> dict[str, list[Image.Image]]:
    """Draw the first images of a batch.

    Args:
        collection: The model.
        named_inputs: The batch.
        count: Number of images.

    Returns:
        The visualizations of each drawing brick by output name. Where the image has a label that the task of the head
        can draw, it is drawn by the same brick to the right of the prediction.
    """
    first = {name: value[:count] for name, value in named_inputs.items() if isinstance(value, (Tensor, list))}
    values = collection(first, tags=Stage.INFERENCE.tags | {Tag.VISUALIZATION}, skip_missing=True)
    bricks = collection.bricks()
    heads = heads_of(bricks)
    drawn: dict[str, list[Image.Image]] = {}
    for path, brick in bricks.items():
        if Tag.VISUALIZATION not in brick.tags:
            continue
        head, truth = prefix_of(path), {}
        target = f"{TARGETS}{head}"
        if head in heads and target in first:
            labels = get_task(heads[head].task).labels_as_outputs(first[target], len(heads[head].labels))
            if labels:
                truth = brick({**values, **{join(head, name): value for name, value in labels.items()}})
        labelled = first.get(f"{LABELLED}{head}")
        for name in (name for name in brick.writes if name in values):
            drawn[name] = list(values[name])
            for index, image in enumerate(truth.get(name, ())):
                if labelled is None or labelled[index]:
                    drawn[name][index] = side_by_side({_PREDICTION: drawn[name][index], _LABEL: image})
    return drawn
