"""Weighted means of losses over many batches and all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, distributed

from brickyard.core.distributed import is_distributed


@final
class RunningMeans:
    """Accumulate the weighted means of named scalars since the last reset, over all processes.

    Args:
        names: The names, the same in the same order on every process.

    Attributes:
        state: (2, N) float64, the weighted sums and the sums of weights of this process.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.reset()

    def reset(self) -> None:
        """Set all sums to 0."""
        self.state = torch.zeros(2, len(self.names), dtype=torch.float64)

    def add(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add scalars.

        Args:
            values: (value, weight) by name, scalars on one device; names may be absent.
        """
        if values:
            device = next(iter(values.values()))[0].device
            absent = (torch.zeros((), device=device),) * 2
            rows = [values.get(name, absent) for name in self.names]
            numbers = torch.stack([value.detach().double() for value, _ in rows])
            weights = torch.stack([weight.double() for _, weight in rows])
            self.state = self.state.to(device) + torch.stack([numbers * weights, weights])

    def compute(self) -> dict[str, Tensor]:
        """Compute the means, without the names whose weights sum to 0. A collective call: every process must join."""
        state = self.state.clone()
        if is_distributed():
            distributed.all_reduce(state)
        sums, weights = state
        return {
            name: (sums[index] / weights[index]).float() for index, name in enumerate(self.names) if weights[index] > 0
        }
