"""Which outputs of a collection are losses to be summed for training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from brickyard.core.brick import Brick
from brickyard.errors import BrickInputError


def find_losses(bricks: Iterable[Brick], named_outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the losses among named values; see `BrickCollection.extract_losses`."""
    losses = [brick for brick in bricks if any(name in named_outputs for name in brick.loss_names)]
    summed = {read.name for brick in losses for read in brick.reads}
    names = [name for brick in losses for name in brick.loss_names if name not in summed]
    found = {name: named_outputs[name] for name in names if name in named_outputs}
    for name, value in found.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise BrickInputError(f"loss '{name}'", "a floating-point tensor that a loss brick wrote", kind)
    return found
