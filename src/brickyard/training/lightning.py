"""Train a collection with pytorch-lightning (the extra `train`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from timm.utils import distribute_bn
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import Parameter

from brickyard.collection import BrickCollection
from brickyard.core.modules import BrickModule
from brickyard.core.tags import Stage, Tag
from brickyard.data.batches import checked
from brickyard.errors import BrickGraphError, MissingExtraError
from brickyard.training.loss_bricks import LossBricks
from brickyard.training.running_means import RunningMeans
from brickyard.training.stage_metrics import StageMetrics

try:
    import pytorch_lightning as pl
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

TOTAL = "loss"  # the sum that is trained on, beside the losses that it is made of
_GATHERED = "brickyard"  # what a checkpoint has beyond Lightning's: for each process what it has gathered so far


@runtime_checkable
class TakesImages(Protocol):
    """A logger that keeps pictures, as `RunLog` and Lightning's `WandbLogger` do."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Keep Pillow images under a name."""


class LightningBrickCollection(pl.LightningModule):  # type: ignore[misc]
    """A collection as a LightningModule: model, losses and metrics are injected, not inherited.

    A batch may lack labels, for a task or for some rows, on one process or on all: those losses are then 0 with zero
    gradients, and no metric counts them. Of several processes, each counts by its number of labelled rows (of a mask,
    pixels), so that the gradient is that of one process with all rows. The first batch must have a label.

    Logged are, under the name of the stage, `loss`, each output of the loss bricks and each metric that is one number:
    in training over what came since they were last logged, which is every `log_every_n_steps` of the trainer and before
    a validation; otherwise over the whole data.

    Args:
        path_experiments: Where experiments are kept; `path_experiment` is this one's folder.
        experiment_name: Its name, None for "default".
        brick_collection: Reads what a batch of the data module holds: a dictionary, or (image, label) pairs as
            `batch_names` name them. The summed losses are what is trained on. It is trained itself, not a copy.
        create_optimizers_func: From the trainable parameters to an optimizer, e.g. `partial(torch.optim.SGD, lr=0.05)`,
            or to anything else that Lightning's `configure_optimizers` may return.
        batch_names: The names of the values of a batch that is a list or tuple.
        pictures: How many annotated pictures of the first validation batch go to each logger that keeps pictures.

    Raises:
        BrickGraphError: In training, no brick makes a loss.
        MissingInputError: In training, the first batch has no label.
    """

    def __init__(
        self,
        path_experiments: str | Path,
        experiment_name: str | None,
        brick_collection: BrickCollection,
        create_optimizers_func: Callable[[Iterable[Parameter]], Any],
        batch_names: tuple[str, ...] = ("raw", "targets"),
        pictures: int = 0,
    ) -> None:
        super().__init__()
        self.path_experiment = Path(path_experiments) / (experiment_name or "default")
        self.bricks = brick_collection
        self.create_optimizers_func = create_optimizers_func
        self.batch_names = batch_names
        self.pictures = pictures
        self._loss_bricks = LossBricks(brick_collection)
        self._metrics = StageMetrics(brick_collection)
        names = list(dict.fromkeys([*self._loss_bricks.names, TOTAL]))
        self._means = {stage: RunningMeans(names) for stage in (Stage.TRAIN, Stage.VALIDATION, Stage.TEST)}
        self._summarized: dict[str, Tensor] = {}  # of the training, when it was last logged
        self._summarized_step = 0
        self._is_checked = False
        self._has_bar = False  # else Lightning's `log` is not worth its time
        self._random_states: tuple[Tensor, Tensor | None] | None = None  # to go on with, of an interrupted training

    def configure_model(self) -> None:
        """Share the weights out over the processes, where Lightning's strategy is `ModelParallelStrategy` (FSDP2)."""
        for brick in self.bricks.bricks().values() if self.device_mesh is not None else ():
            if not isinstance(brick, FSDPModule) and next(brick.parameters(), None) is not None:
                fully_shard(brick, mesh=self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        return self.create_optimizers_func([parameter for parameter in self.parameters() if parameter.requires_grad])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        # Not after a step but before the next one: so a checkpoint is wholly before a row of the log, or after it.
        if self.global_step > self._summarized_step and self.global_step % self.trainer.log_every_n_steps == 0:
            self._log_training()
        total = self._step(self._named(batch), Stage.TRAIN)
        if self._has_bar:
            self.log(TOTAL, total, prog_bar=True, logger=False)
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        named = self._named(batch)
        self._step(named, Stage.VALIDATION)
        if self.pictures and batch_idx == 0:
            self._log_images(named)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._step(self._named(batch), Stage.TEST)

    def on_train_start(self) -> None:
        self._has_bar = self.trainer.progress_bar_callback is not None
        if self._random_states is not None:  # not earlier: setting up draws numbers too
            cpu, gpu = self._random_states
            torch.set_rng_state(cpu)
            if gpu is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(gpu, self.device)
            self._random_states = None

    def on_validation_start(self) -> None:
        share_statistics(self.bricks)
        if self.global_step > self._summarized_step:
            self._log_training()

    def on_train_epoch_end(self) -> None:
        if self.global_step > self._summarized_step:
            self._log_training()
        self.log_dict(self._summarized, logger=False, sync_dist=True)  # the same on all processes; or Lightning warns

    def on_validation_epoch_end(self) -> None:
        summary = self._summary(Stage.VALIDATION)
        if not self.trainer.sanity_checking:
            self._to_loggers(summary)
            self.log_dict(summary, logger=False, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._summary(Stage.TEST), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {
            "means": self._means[Stage.TRAIN].state,
            "metrics": self._metrics.state(Stage.TRAIN),
            "summarized": self._summarized,
            "summarized_step": self._summarized_step,
            "random_states": (torch.get_rng_state(), self._random_state_of_gpu()),
        }
        gathered: list[Any] = [own]
        if _world_size() > 1:
            gathered *= _world_size()
            distributed.all_gather_object(gathered, own)
        checkpoint[_GATHERED] = gathered

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        gathered = checkpoint.get(_GATHERED, [])
        if len(gathered) == _world_size():  # by other processes, what was not logged yet is lost, no more
            own = gathered[distributed.get_rank() if _world_size() > 1 else 0]
            self._means[Stage.TRAIN].state = own["means"]
            self._metrics.load_state(Stage.TRAIN, own["metrics"])
            self._summarized, self._summarized_step = own["summarized"], own["summarized_step"]
            self._random_states = own["random_states"]

    def _random_state_of_gpu(self) -> Tensor | None:
        """That of this process's own: a training may go on where there are fewer."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def _named(self, batch: Any) -> Mapping[str, Any]:
        checked(batch)
        return batch if isinstance(batch, Mapping) else dict(zip(self.batch_names, batch, strict=True))

    def _step(self, named: Mapping[str, Any], stage: Stage) -> Tensor:
        """Run a batch, gather its losses and metrics, and return the loss to train on."""
        bricks = self._loss_bricks
        running = bricks.running(named, stage.tags)
        weights = bricks.counts(named, running)
        scales, whole = None, weights.new_tensor(float(_rows(named)))
        if stage is Stage.TRAIN:
            scales, weights = _shares(weights)
            whole = weights.any().float()
            self._check_first(named, weights)
        with self._metrics.using(stage), bricks.scaled(scales):
            values = self.bricks(named, tags=stage.tags, skip_missing=True)
        losses = [loss.float() for loss in self.bricks.extract_losses(values).values()]
        losses += bricks.absent(values, running)
        total = torch.stack(losses).sum() if losses else torch.zeros_like(whole)
        self._means[stage].add({**bricks.weighted(values, weights, whole), TOTAL: (total, whole)})
        return total

    def _check_first(self, named: Mapping[str, Any], weights: Tensor) -> None:
        """Raise for a first batch without any loss, rather than train on nothing."""
        if self._is_checked:
            return
        if not self._loss_bricks.base:
            raise BrickGraphError("No brick of the collection makes a loss to train on. Add a BrickLoss.")
        if not weights.any():
            self.bricks(named, tags=Stage.TRAIN.tags)  # says which label is missing
        self._is_checked = True

    def _summary(self, stage: Stage) -> dict[str, Tensor]:
        """What was gathered in a stage; it starts anew."""
        means = self._means[stage].compute()
        self._means[stage].reset()
        if stage is not Stage.TRAIN and means:  # batches lack one loss or another, so the mean of totals says nothing
            means[TOTAL] = torch.stack([means[name] for name in self._loss_bricks.outer if name in means]).sum()
        with self._metrics.using(stage):
            found = {**means, **self.bricks.summarize(reset=True)}
        scalars = {name: value for name, value in found.items() if isinstance(value, Tensor) and value.numel() == 1}
        return {f"{stage.value}/{name}": value for name, value in scalars.items()}

    def _log_training(self) -> None:
        self._summarized, self._summarized_step = self._summary(Stage.TRAIN), self.global_step
        self._to_loggers(self._summarized)

    def _to_loggers(self, summary: Mapping[str, Tensor]) -> None:
        row = {name: float(value) for name, value in summary.items()}
        for logger in self.loggers if row else ():
            logger.log_metrics(row, step=self.global_step)

    def _log_images(self, named: Mapping[str, Any]) -> None:
        loggers = [logger for logger in self.loggers if isinstance(logger, TakesImages)]
        painters = [brick for brick in self.bricks.bricks().values() if Tag.VISUALIZATION in brick.tags]
        if not loggers or not painters or self.trainer.sanity_checking:
            return
        first = {name: value[: self.pictures] for name, value in named.items() if isinstance(value, (Tensor, list))}
        values = self.bricks(first, tags=Stage.INFERENCE.tags | {Tag.VISUALIZATION}, skip_missing=True)
        for name in (name for brick in painters for name in brick.writes if name in values):
            for logger in loggers:
                logger.log_image(f"{Stage.VALIDATION.value}/{name}", values[name], self.global_step)


def share_statistics(collection: BrickCollection) -> None:
    """Give all processes the mean of their normalisation statistics; those of frozen bricks are alike already."""
    for brick in collection.bricks().values() if _world_size() > 1 else ():
        if isinstance(brick, BrickModule) and brick.trainable and brick.module is not None:
            distribute_bn(brick.module, _world_size(), reduce=True)


def _shares(counts: Tensor) -> tuple[Tensor | None, Tensor]:
    """From each loss's number of rows: its scale, if there are several processes; 1 or 0 for whether any has rows."""
    if _world_size() == 1:
        return None, (counts > 0).float()
    total = counts.clone()
    distributed.all_reduce(total)
    return counts / total.clamp(min=1) * _world_size(), (total > 0).float()


def _rows(named: Mapping[str, Any]) -> int:
    return len(next(value for value in named.values() if isinstance(value, Tensor)))


def _world_size() -> int:
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1
