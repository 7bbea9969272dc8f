"""Train a collection with pytorch-lightning (the extra `train`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from brickyard.collection import BrickCollection
from brickyard.errors import BrickGraphError, MissingExtraError
from brickyard.stages import per_stage_brick_collections
from brickyard.tags import Stage

try:
    import pytorch_lightning as pl
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None


class LightningBrickCollection(pl.LightningModule):  # type: ignore[misc]
    """A collection as a LightningModule: model, losses and metrics are injected, not inherited.

    Args:
        path_experiments: Where experiments are kept; `path_experiment` is this one's folder.
        experiment_name: Its name, None for "default".
        brick_collection: Reads what a batch of the data module holds: a dictionary, or (image, label) pairs as
            `batch_names` name them. The summed losses are what is trained on.
        create_optimizers_func: From the trainable parameters to an optimizer, e.g. `partial(torch.optim.SGD, lr=0.05)`.
        batch_names: The names of the values of a batch that is a list or tuple.
    """

    def __init__(
        self,
        path_experiments: str | Path,
        experiment_name: str | None,
        brick_collection: BrickCollection,
        create_optimizers_func: Callable[[Iterable[Parameter]], torch.optim.Optimizer],
        batch_names: tuple[str, ...] = ("raw", "targets"),
    ) -> None:
        super().__init__()
        self.path_experiment = Path(path_experiments) / (experiment_name or "default")
        self.bricks = per_stage_brick_collections(brick_collection)
        self.create_optimizers_func = create_optimizers_func
        self.batch_names = batch_names

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.create_optimizers_func([parameter for parameter in self.parameters() if parameter.requires_grad])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = self._step(batch, Stage.TRAIN)
        if not losses:
            raise BrickGraphError("No brick of the collection makes a loss to train on. Add a BrickLoss.")
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, Stage.VALIDATION)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._step(batch, Stage.TEST)

    def on_train_epoch_end(self) -> None:
        self._log_metrics(Stage.TRAIN)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics(Stage.VALIDATION)

    def on_test_epoch_end(self) -> None:
        self._log_metrics(Stage.TEST)

    def _step(self, batch: Any, stage: Stage) -> dict[str, Tensor]:
        named = batch if isinstance(batch, dict) else dict(zip(self.batch_names, batch, strict=True))
        bricks: Any = self.bricks[stage.name]
        losses: dict[str, Tensor] = bricks.extract_losses(bricks(named, tags=stage.tags))
        size = len(next(iter(named.values())))
        for name, loss in losses.items():
            self.log(f"{stage.value}/{name}", loss, on_step=False, on_epoch=True, batch_size=size)
        return losses

    def _log_metrics(self, stage: Stage) -> None:
        bricks: Any = self.bricks[stage.name]
        for name, value in bricks.summarize(reset=True).items():
            if isinstance(value, Tensor) and value.numel() == 1:
                self.log(f"{stage.value}/{name}", value)
