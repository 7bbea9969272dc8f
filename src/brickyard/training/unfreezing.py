"""Train bricks from a later step on (the extra `train`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

from brickyard.collection import BrickCollection
from brickyard.errors import BrickInputError, MissingExtraError, UnknownNameError

try:
    import pytorch_lightning as pl
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None


def unfreeze(model: BrickCollection, paths: Iterable[str]) -> None:
    """Make bricks trainable.

    Raises:
        UnknownNameError: The model has no such brick.
    """
    for path in paths:
        if path not in model:
            raise UnknownNameError("brick to unfreeze", path, model.bricks())
        model.unfreeze(path)


@final
class Unfreezing(pl.Callback):  # type: ignore[misc]
    """Freeze bricks until a step. They must be trainable when the optimizer is created.

    Args:
        model: The collection that is trained.
        steps: Number of optimizer steps before each brick, by its path, is trained; 0 for all steps.

    Raises:
        BrickInputError: No brick is trained from the first step, or the weights are sharded over processes (FSDP).
    """

    def __init__(self, model: BrickCollection, steps: Mapping[str, int]) -> None:
        self.model, self.steps = model, steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if pl_module.device_mesh is not None and any(self.steps.values()):
            raise BrickInputError("unfreeze", "the whole weights on every process", "weights sharded by fsdp")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for path, step in self.steps.items():
            if trainer.global_step < step:
                self.model.freeze(path)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise BrickInputError("unfreeze", "a brick that is trained from the first step", "every brick frozen")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for path, step in self.steps.items():
            if step and trainer.global_step == step:
                self.model.unfreeze(path)
