"""Match the rows of a head's weights with its classes by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def rows_by_name(
    fresh: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    larger: Mapping[str, Tensor],
    labels: Sequence[str],
    stored_labels: Sequence[str],
) -> dict[str, Tensor] | None:
    """Return the state of a head with the stored tensors, and of those that have a row per class the stored rows.

    Rows of classes that only the head to fill has stay fresh.

    A dimension that grows with the number of classes is (anchors, K) or (anchors, 1 + K), with the background first,
    as in torchvision's detectors.

    Args:
        fresh: The state of the head to fill.
        stored: The state of the stored head.
        larger: The state of the stored head with one class more, on any device, which tells where the classes are.
        labels: The class names of the head to fill.
        stored_labels: Those of the stored head.

    Returns:
        None if the heads differ in more than their classes, or everything would stay fresh.
    """
    known = [(new, stored_labels.index(name)) for new, name in enumerate(labels) if name in stored_labels]
    if not fresh.keys() == stored.keys() == larger.keys():
        return None
    state, is_shared = {}, False
    for key, source in stored.items():
        dims = [dim for dim, length in enumerate(larger[key].shape) if length != source.shape[dim]]
        if not dims and fresh[key].shape == source.shape:
            state[key], is_shared = source, True
            continue
        if len(dims) != 1:
            return None
        rows, target = source.movedim(dims[0], 0), fresh[key].detach().clone()
        anchors = larger[key].shape[dims[0]] - len(rows)
        background = len(rows) // anchors - len(stored_labels)
        if background not in (0, 1) or len(rows) % anchors:
            return None
        to = torch.tensor([*range(background), *(background + new for new, _ in known)], dtype=torch.long)
        of = torch.tensor([*range(background), *(background + old for _, old in known)], dtype=torch.long)
        blocks = target.movedim(dims[0], 0)
        if len(blocks) != anchors * (background + len(labels)) or blocks.shape[1:] != rows.shape[1:]:
            return None
        for anchor in range(anchors):
            start, stored_start = anchor * (background + len(labels)), anchor * (background + len(stored_labels))
            blocks[start + to] = rows[stored_start + of]
        state[key] = target
    return state if known or is_shared else None
