"""Samples of several tasks as one batch, also where some samples lack a task's label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from brickyard.errors import BrickInputError
from brickyard.parts.segmentation import IGNORED

_TARGETS, _LABELLED = "targets/", "labelled/"


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the batch that a collection reads, as the `collate_fn` of a `DataLoader`.

    Args:
        samples: One dictionary a picture: `image` (C, H, W), and `targets/<task>` for each task that it has a label of.
            Everything else than targets stands in all of them.

    Returns:
        The values of each name. Dictionaries, as the boxes of a picture, stay a list; everything else is stacked by
        torch's `default_collate`. Where only some samples have a task's target, the others get a neutral one (255 for
        the pixels of an integer mask, no boxes, else zeros), and `labelled/<task>` (B,) bool says which rows have it.

    Raises:
        BrickInputError: There is no sample; a value that is no target is missing in some; tensors differ in shape.
    """
    if not samples:
        raise BrickInputError("collate", "one sample or more", "none")
    batch: dict[str, Any] = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        lacking = [row for row, sample in enumerate(samples) if name not in sample]
        if lacking and not name.startswith(_TARGETS):
            hint = f"Only values under '{_TARGETS}' may be absent."
            raise BrickInputError(f"collate, '{name}'", "a value in every sample", f"none in rows {lacking}", hint)
        neutral = _neutral(next(sample[name] for sample in samples if name in sample)) if lacking else None
        batch[name] = _joined(name, [sample.get(name, neutral) for sample in samples])
        if lacking:
            labelled = torch.tensor([name in sample for sample in samples])
            batch[_LABELLED + name.removeprefix(_TARGETS)] = labelled
    return batch


def _neutral(value: Any) -> Any:
    """What stands for a missing target of the kind of `value`; the losses leave its row out."""
    if isinstance(value, Mapping):
        return {name: entry[:0] for name, entry in value.items()}
    like = torch.as_tensor(value)
    is_mask = like.ndim >= 2 and not like.is_floating_point() and like.dtype != torch.bool
    return torch.full_like(like, IGNORED if is_mask else 0)


def _joined(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return values
    if any(isinstance(value, Tensor) for value in values):
        values = [torch.as_tensor(value) for value in values]  # a plain number beside a neutral tensor
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            raise BrickInputError(f"collate, '{name}'", "tensors of one shape", f"{shapes}")
    return default_collate(values)
