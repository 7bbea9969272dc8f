"""The labels that a model reads, and the check of a batch before it is run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, final

import torch
from torch import Tensor

from brickyard.core.brick import Brick
from brickyard.data.label_checks import LabelContext
from brickyard.data.label_kinds import KIND_RULES, LABELLED, TARGETS, LabelKind
from brickyard.errors import BrickInputError, UnknownNameError, nearest
from brickyard.recipe.inspection import heads_of
from brickyard.tasks.registry import get_task


@final
@dataclass(frozen=True)
class LabelSpec:
    """A label that a head reads.

    Attributes:
        kind: Its kind.
        num_classes: The number of classes of the head, None for a further label of the head.
        num_keypoints: The number of key points of an object, None for a head without them.
    """

    kind: LabelKind
    num_classes: int | None
    num_keypoints: int | None = None


@final
@dataclass(frozen=True)
class ModelLabels:
    """The labels of a model.

    Attributes:
        specs: The labels of the heads of registered tasks, by the name of the value, "targets/seg".
        names: The names of all values that some brick reads.
    """

    specs: Mapping[str, LabelSpec]
    names: frozenset[str]


def labels_of_model(bricks: Mapping[str, Brick]) -> ModelLabels:
    """Return the labels that the heads of a model read.

    Args:
        bricks: The bricks of the model by path.
    """
    specs: dict[str, LabelSpec] = {}
    for name, head in heads_of(bricks).items():
        try:
            task = get_task(head.task)
            kinds = task.kinds(name, head.variant)
        except (UnknownNameError, BrickInputError):  # a model also runs where its task is not registered
            continue
        with_classes = {TARGETS + name, *(f"{TARGETS}{name}/{label}" for label in task.optional_labels)}
        points = None if head.keypoints is None else len(head.keypoints.names)
        specs |= {
            label: LabelSpec(kind, len(head.labels) if label in with_classes else None, points)
            for label, kind in kinds.items()
        }
    return ModelLabels(specs, frozenset(read.name for brick in bricks.values() for read in brick.reads))


def check_labels(labels: ModelLabels, named_inputs: Mapping[str, Any], read: Collection[str]) -> None:
    """Check the types, shapes and values of the labels of a batch, and the names of values under `labelled/`.

    Args:
        labels: The labels of the model.
        named_inputs: The batch.
        read: The names of the labels to check.

    Raises:
        BrickInputError: A label has another type, shape or range than its head expects, or a name under `labelled/` or
            `targets/` is misspelled.
    """
    _check_names(labels.names, named_inputs)
    for name, spec in labels.specs.items():
        if name in read and name in named_inputs:
            labelled = named_inputs.get(LABELLED + name.removeprefix(TARGETS))
            rows, size = _images_of(named_inputs)
            _check_labelled(labelled, name, rows)
            context = LabelContext(name, rows, size, spec.num_classes, labelled, spec.num_keypoints)
            KIND_RULES[spec.kind].check(named_inputs[name], context)


def _check_names(known: Collection[str], named_inputs: Mapping[str, Any]) -> None:
    """Check that rows are marked for a label that is there, and that no label is absent because it is misspelled."""
    for name in named_inputs:
        if name.startswith(LABELLED) and name not in known:
            target = TARGETS + name.removeprefix(LABELLED)
            if target not in named_inputs:
                hint = nearest(name, [other for other in known if other.startswith(LABELLED)])
                raise BrickInputError(
                    f"'{name}'", f"the rows of a label '{target}' in the batch", "no such label", hint
                )
        elif name.startswith(TARGETS) and name not in known:
            absent = [other for other in known if other.startswith(TARGETS) and other not in named_inputs]
            if close := get_close_matches(name, absent, n=1, cutoff=0.9):
                hint = "Rename it, or leave it out of the batch."
                raise BrickInputError(f"'{name}'", f"'{close[0]}', which a brick reads", "a name that none reads", hint)


def _check_labelled(labelled: Any, name: str, rows: int | None) -> None:
    if labelled is None:
        return
    is_valid = isinstance(labelled, Tensor) and labelled.dtype == torch.bool and labelled.ndim == 1
    if not is_valid or rows not in (None, len(labelled)):
        found = (
            f"{tuple(labelled.shape)} of {labelled.dtype}" if isinstance(labelled, Tensor) else type(labelled).__name__
        )
        expected = f"a tensor (B,) = ({rows},) of torch.bool"
        raise BrickInputError(LABELLED + name.removeprefix(TARGETS), expected, found)


def _images_of(named_inputs: Mapping[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    """Return the number and (H, W) of the images of a batch, None where it has none."""
    image = named_inputs.get("image")
    if not isinstance(image, Tensor) or image.ndim != 4:
        return None, None
    return len(image), (image.shape[2], image.shape[3])
