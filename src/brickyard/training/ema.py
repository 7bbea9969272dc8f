"""The exponential moving average of the weights (the extra `train`)."""

from __future__ import annotations

from typing import Any, final

import torch
from timm.utils import ModelEmaV3
from torch import nn

from brickyard.collection import BrickCollection
from brickyard.errors import BrickInputError, MissingExtraError

try:
    import pytorch_lightning as pl
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None


@final
class _State(nn.Module):
    """The state of a collection without repetitions: a module that two bricks share is averaged and swapped once."""

    def __init__(self, model: BrickCollection) -> None:
        super().__init__()
        self.model = model

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]  # what `ModelEmaV3` reads
        unique = {id(value): name for name, value in reversed(self.model.state_dict(keep_vars=True).items())}
        names = set(unique.values())
        return {name: value for name, value in self.model.state_dict().items() if name in names}


@final
class MovingAverage(pl.Callback):  # type: ignore[misc]
    """Validate, save and return the exponential moving average of weights and normalization statistics.

    The average is timm's `ModelEmaV3` with warmup: the decay grows from 0 to `decay` in the first steps. The model
    holds the averaged weights during a validation, and after the training.

    Args:
        model: The collection that is trained.
        decay: Fraction of the average that is kept at each step, in [0, 1).

    Raises:
        BrickInputError: The decay is not in [0, 1), or the weights are sharded over processes (FSDP).
    """

    def __init__(self, model: BrickCollection, decay: float) -> None:
        if not 0 <= decay < 1:
            raise BrickInputError("ema", "a decay in [0, 1), e.g. 0.999", f"{decay}")
        self.model = model
        self.decay = decay
        self._average: ModelEmaV3 | None = None
        self._step = 0

    @property
    def averaged(self) -> BrickCollection:
        """The model with the averaged weights: a copy of the model before the first step."""
        if self._average is None:
            self._average = ModelEmaV3(_State(self.model), self.decay, use_warmup=True)
        averaged: BrickCollection = self._average.module.model
        return averaged

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if pl_module.device_mesh is not None:
            raise BrickInputError("ema", "the whole weights on every process", "weights sharded by the strategy fsdp")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.averaged.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._step and self._average is not None:  # once a step, also with several batches
            self._step = trainer.global_step
            self._average.update(_State(self.model), self._step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "averaged": self.averaged.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["step"]
        self.averaged.load_state_dict(state_dict["averaged"])

    @torch.no_grad()
    def _swap(self) -> None:
        """Swap the values of the model's weights and of their average."""
        state, averaged = _State(self.model).state_dict(), _State(self.averaged).state_dict()
        for value, average in zip(state.values(), averaged.values(), strict=True):
            previous = value.clone()
            value.copy_(average)
            average.copy_(previous)
