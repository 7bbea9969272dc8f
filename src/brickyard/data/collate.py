"""Collate samples into a batch, also where some samples lack a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from brickyard.data.label_kinds import KIND_RULES, LABELLED, TARGETS, LabelKind, kind_of
from brickyard.errors import BrickInputError


def collate(samples: Sequence[Mapping[str, Any]], kinds: Mapping[str, LabelKind]) -> dict[str, Any]:
    """Make the batch that a collection reads: the `collate_fn` of a `DataLoader` is `partial(collate, kinds=...)`.

    Args:
        samples: One dictionary per image: `image` (C, H, W), `targets/<label>` for each label that the image has, and
            any other values, which every sample must have.
        kinds: The kind of each label by its name, `LabelledDataset.kinds`.

    Returns:
        The values of each name. Boxes, instance masks and texts are a list, everything else is stacked by torch's
        `default_collate`. Where only some samples have a label, the others get a neutral one (255 for the pixels of a
        mask, no boxes, "" for a text, else zeros), and `labelled/<label>` (B,) bool marks the rows that have it.

    Raises:
        BrickInputError: There is no sample; a value that is not a label is missing in some; a label has no kind;
            tensors differ in shape.
    """
    if not samples:
        raise BrickInputError("collate", "one sample or more", "none")
    batch: dict[str, Any] = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        if name.startswith(TARGETS):
            batch |= _collate_label(name, samples, kind_of(name, kinds, "collate"))
            continue
        if missing := [row for row, sample in enumerate(samples) if name not in sample]:
            hint = f"Only values under '{TARGETS}' may be absent."
            raise BrickInputError(f"collate, '{name}'", "a value in every sample", f"none in rows {missing}", hint)
        batch[name] = _stack(name, [sample[name] for sample in samples])
    return batch


def _collate_label(name: str, samples: Sequence[Mapping[str, Any]], kind: LabelKind) -> dict[str, Any]:
    rules = KIND_RULES[kind]
    labelled = [name in sample for sample in samples]
    values = [sample[name] for sample in samples if name in sample]
    if not all(labelled):
        neutral, rest = rules.neutral(values[0]), iter(values)
        values = [next(rest) if has_label else neutral for has_label in labelled]
    batch = {name: _stack(name, values) if rules.is_stacked else values}
    if not all(labelled):
        batch[LABELLED + name.removeprefix(TARGETS)] = torch.tensor(labelled)
    return batch


def _stack(name: str, values: list[Any]) -> Any:
    if any(isinstance(value, Tensor) for value in values):
        values = [torch.as_tensor(value) for value in values]  # a plain number next to a neutral tensor
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            raise BrickInputError(f"collate, '{name}'", "tensors of one shape", f"{shapes}")
    return default_collate(values)
