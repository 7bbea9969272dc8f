"""Run torchvision's detection heads on any batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def head_outputs(head: nn.Module, maps: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a head of torchvision, which cannot reshape an empty batch.

    Args:
        head: A head that returns tensors of shape (B, P, ...) by name.
        maps: Feature maps, each (B, C, H_i, W_i).
    """
    if maps[0].shape[0] > 0:
        outputs: dict[str, Tensor] = head(maps)
        return outputs
    return {name: value[:0] for name, value in head([each.new_zeros(1, *each.shape[1:]) for each in maps]).items()}
