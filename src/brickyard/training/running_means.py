"""Means of losses over many batches, on all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, distributed


@final
class RunningMeans:
    """The weighted mean of each of some numbers since the last reset, over all processes.

    Args:
        names: The same, in the same order, on every process.

    Attributes:
        state: (2, N) float64, the weighted sums and the sums of weights of this process.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.state = torch.zeros(2, len(self.names), dtype=torch.float64)

    def add(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add scalars with their weights, all on one device; a name may be absent."""
        if values:
            device = next(iter(values.values()))[0].device
            nothing = (torch.zeros((), device=device),) * 2
            rows = [values.get(name, nothing) for name in self.names]
            numbers = torch.stack([value.detach().double() for value, _ in rows])
            weights = torch.stack([weight.double() for _, weight in rows])
            self.state = self.state.to(device) + torch.stack([numbers * weights, weights])

    def compute(self) -> dict[str, Tensor]:
        """The means of the names that any process has had. All processes call this together."""
        state = self.state.clone()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(state)
        sums, weights = state
        return {
            name: (sums[place] / weights[place]).float() for place, name in enumerate(self.names) if weights[place] > 0
        }
