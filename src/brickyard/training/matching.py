"""Models and data that fit each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from brickyard.catalog import model_info
from brickyard.collection import BrickCollection
from brickyard.core.specs import HeadInfo
from brickyard.create import create_model
from brickyard.data.dataset import LabelledDataset
from brickyard.errors import BrickMismatchError
from brickyard.recipe.inspection import heads_of

_WHAT = "The data does not fit the model"


def create_model_for(
    data: LabelledDataset,
    name: str,
    *,
    pretrained: bool = False,
    bricks: Mapping[str, str] | None = None,
    seed: int = 0,
) -> BrickCollection:
    """Assemble a model whose heads are for the classes of a data set.

    Args:
        data: What it shall learn; heads are found by their names.
        name: See `create_model`, like the next two.
        pretrained: Start from trained weights.
        bricks: Where to take some bricks from.
        seed: Of the weights that start fresh.

    Raises:
        BrickMismatchError: The data has no labels for the model, or of another kind.
        Else as for `create_model`.
    """
    heads = model_info(name).tasks
    labels = {head: names for head, names in data.labels.items() if head in heads}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(name, pretrained=pretrained, labels=labels, bricks=bricks)
    check_labels(model, data)
    return model


def check_labels(model: BrickCollection, data: LabelledDataset) -> None:
    """See whether data has the labels that a model's heads are for.

    Raises:
        BrickMismatchError: For none of them, or those of other classes or another kind.
    """
    heads, shared, problems = _compared(model, data)
    target = data[0].get("targets/cls") if "cls" in shared and len(data) else None
    if isinstance(target, Tensor) and (target.ndim == 1) != (heads["cls"].variant == "multilabel"):
        several = target.ndim == 1
        told = ("several classes", "cls-multilabel") if several else ("one class", "cls")
        problems.append(f"head 'cls': the data has {told[0]} a picture, for which '{told[1]}' is made")
    if problems:
        raise BrickMismatchError(_WHAT, problems)


def check_classes(model: BrickCollection, data: LabelledDataset, what: str) -> None:
    """See whether data has the classes that a model's heads are for; no picture is read.

    Raises:
        BrickMismatchError: It has labels for none of the heads, or those of other classes.
    """
    if problems := _compared(model, data)[2]:
        raise BrickMismatchError(f"{what}: {_WHAT}", problems)


def _compared(model: BrickCollection, data: LabelledDataset) -> tuple[dict[str, HeadInfo], list[str], list[str]]:
    """What is known of each head, the heads that the data has labels for, and how their classes differ."""
    heads = heads_of(model.bricks())
    shared = [head for head in heads if head in data.labels]
    if not shared:
        raise BrickMismatchError(_WHAT, [f"expected labels for some of {list(heads)}, found {list(data.labels)}"])
    problems = []
    for head in shared:
        expected, found = list(heads[head].labels), list(data.labels[head])
        if expected != found:
            problems.append(f"head '{head}': expected the {len(expected)} classes {expected}, found {found}")
    return heads, shared, problems
