"""Train a collection with pytorch-lightning (the extra `train`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.utils import distribute_bn
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import Parameter

from brickyard.collection import BrickCollection
from brickyard.core.distributed import rank, world_size
from brickyard.core.modules import BrickModule
from brickyard.core.tags import Stage, Tag
from brickyard.data.batches import checked
from brickyard.errors import BrickGraphError, MissingExtraError
from brickyard.training.loggers import image_writer
from brickyard.training.loss_bricks import LossBricks
from brickyard.training.running_means import RunningMeans
from brickyard.training.stage_metrics import StageMetrics
from brickyard.training.validation_images import draw_batch

try:
    import pytorch_lightning as pl
    from pytorch_lightning.trainer.states import TrainerFn
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

TOTAL = "loss"  # the sum of all losses, which is minimized
_CHECKPOINT_KEY = "brickyard"  # in a checkpoint: a list with the accumulated losses and metrics of each process


class LightningBrickCollection(pl.LightningModule):  # type: ignore[misc]
    """Train a collection: model, losses and metrics are injected, not inherited.

    A batch may lack the labels of a task, for some rows or all, on one process or on all. Such a loss is then 0 with
    zero gradients, and no metric counts these rows. With several processes, each loss is weighted by its number of
    labelled rows (pixels for a mask), so that the gradient equals that of one process with all rows. The first batch
    must have a label.

    Under the name of the stage, `loss`, each output of the loss bricks and each scalar metric are logged: in training
    over the steps since the last row, which is every `log_every_n_steps` of the trainer and before each validation;
    in validation and test over the whole data.

    Args:
        path_experiments: Folder of all experiments; `path_experiment` is the folder of this one.
        experiment_name: Name of the experiment; None is "default".
        brick_collection: The collection, trained in place. It reads the batches of the data module: a dictionary, or
            (image, label) pairs with the names in `batch_names`. The sum of its losses is minimized.
        create_optimizers_func: Maps the trainable parameters to an optimizer, e.g. `partial(torch.optim.SGD, lr=0.05)`,
            or to any other value that Lightning's `configure_optimizers` may return.
        batch_names: Names of the values of a batch that is a list or tuple.
        num_visualizations: Number of images of the first validation batch whose visualizations go to each
            logger that takes images.

    Raises:
        BrickGraphError: In training: no brick outputs a loss.
        MissingInputError: In training: the first batch has no label.
    """

    def __init__(
        self,
        path_experiments: str | Path,
        experiment_name: str | None,
        brick_collection: BrickCollection,
        create_optimizers_func: Callable[[Iterable[Parameter]], Any],
        batch_names: tuple[str, ...] = ("raw", "targets"),
        num_visualizations: int = 0,
    ) -> None:
        super().__init__()
        self.path_experiment = Path(path_experiments) / (experiment_name or "default")
        self.bricks = brick_collection
        self.create_optimizers_func = create_optimizers_func
        self.batch_names = batch_names
        self.num_visualizations = num_visualizations
        self._loss_bricks = LossBricks(brick_collection)
        self._metrics = StageMetrics(brick_collection)
        names = list(dict.fromkeys([*self._loss_bricks.names, TOTAL]))
        self._means = {stage: RunningMeans(names) for stage in (Stage.TRAIN, Stage.VALIDATION, Stage.TEST)}
        self._summarized: dict[str, Tensor] = {}  # the last logged row of the training
        self._summarized_step = 0
        self._is_checked = False
        self._has_bar = False  # without a progress bar, Lightning's `log` in each step only costs time
        self._random_states: tuple[Tensor, Tensor | None] | None = (
            None  # restored from a checkpoint, until the training starts
        )

    def configure_model(self) -> None:
        """Shard the weights over the processes if the strategy is `ModelParallelStrategy` (FSDP2)."""
        for brick in self.bricks.bricks().values() if self.device_mesh is not None else ():
            if not isinstance(brick, FSDPModule) and next(brick.parameters(), None) is not None:
                fully_shard(brick, mesh=self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        return self.create_optimizers_func([parameter for parameter in self.parameters() if parameter.requires_grad])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        # Before the next step and not after this one: a checkpoint between them never splits a row of the log.
        if self.global_step > self._summarized_step and self.global_step % self.trainer.log_every_n_steps == 0:
            self._log_training()
        total = self._step(self.named_inputs(batch), Stage.TRAIN)
        if self._has_bar:
            self.log(TOTAL, total, prog_bar=True, logger=False)
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        named_inputs = self.named_inputs(batch)
        self._step(named_inputs, Stage.VALIDATION)
        if self.num_visualizations and batch_idx == 0:
            self._log_visualizations(named_inputs)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._step(self.named_inputs(batch), Stage.TEST)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Return the outputs of the model for a batch by name, without losses and metrics.

        Args:
            batch: As for training, but without the values that only losses and metrics read. A tensor is the first of
                `batch_names`.
            batch_idx: The index of the batch.
        """
        values = (batch,) if isinstance(batch, Tensor) else batch
        if isinstance(values, Sequence):
            values = dict(zip(self.batch_names, values, strict=False))  # a loader may have no labels
        outputs: dict[str, Any] = self.bricks(checked(values), tags=Stage.INFERENCE.tags, return_inputs=False)
        return outputs

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.device.type != "cpu":  # the collection checks the values of labels on the CPU only
            self.bricks.check_labels(self.named_inputs(batch))
        return batch

    def on_train_start(self) -> None:
        self._has_bar = self.trainer.progress_bar_callback is not None
        if self._random_states is not None:  # not earlier: setup draws random numbers too
            cpu, gpu = self._random_states
            torch.set_rng_state(cpu)
            if gpu is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(gpu, self.device)
            self._random_states = None

    def on_validation_start(self) -> None:
        average_statistics(self.bricks)
        if self.global_step > self._summarized_step:
            self._log_training()

    def on_train_epoch_end(self) -> None:
        if self.global_step > self._summarized_step:
            self._log_training()
        self.log_dict(
            self._summarized, logger=False, sync_dist=True
        )  # equal on all processes; Lightning warns without it

    def on_validation_epoch_end(self) -> None:
        summary = self._summary(Stage.VALIDATION)
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.log_dict(summary, sync_dist=True)  # `Trainer.validate` returns what goes to the loggers
        elif not self.trainer.sanity_checking:
            self._to_loggers(summary)  # in the row of this step
            self.log_dict(summary, logger=False, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._summary(Stage.TEST), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        local = {
            "means": self._means[Stage.TRAIN].state,
            "metrics": self._metrics.state(Stage.TRAIN),
            "summarized": self._summarized,
            "summarized_step": self._summarized_step,
            "random_states": (torch.get_rng_state(), self._gpu_random_state()),
        }
        states: list[Any] = [local] * world_size()
        if world_size() > 1:
            distributed.all_gather_object(states, local)
        checkpoint[_CHECKPOINT_KEY] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get(_CHECKPOINT_KEY, [])
        if len(states) == world_size():  # with another number of processes, only values not logged yet are lost
            local = states[rank()]
            self._means[Stage.TRAIN].state = local["means"]
            self._metrics.load_state(Stage.TRAIN, local["metrics"])
            self._summarized, self._summarized_step = local["summarized"], local["summarized_step"]
            self._random_states = local["random_states"]

    def _gpu_random_state(self) -> Tensor | None:
        """Return the state of this process's GPU only: a training may be resumed on a machine with fewer GPUs."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def named_inputs(self, batch: Any) -> Mapping[str, Any]:
        """Return the values of a batch by name.

        Raises:
            ValueError: A list or tuple has another number of values than `batch_names`.
            BrickError: The batch is an error of a data loading process.
        """
        checked(batch)
        return batch if isinstance(batch, Mapping) else dict(zip(self.batch_names, batch, strict=True))

    def _step(self, named_inputs: Mapping[str, Any], stage: Stage) -> Tensor:
        """Run a batch, accumulate its losses and metrics, and return the total loss."""
        bricks = self._loss_bricks
        running = bricks.running(named_inputs, stage.tags)
        weights = bricks.counts(named_inputs, running)
        scales, total_weight = None, weights.new_tensor(float(_batch_size(named_inputs)))
        if stage is Stage.TRAIN:
            scales, weights = _scales_and_weights(weights)
            total_weight = weights.any().float()
            self._check_first(named_inputs, weights)
        with self._metrics.using(stage), bricks.scaled(scales):
            values = self.bricks(named_inputs, tags=stage.tags, skip_missing=True)
        losses = [loss.float() for loss in self.bricks.extract_losses(values).values()]
        losses += bricks.absent(values, running)
        total = torch.stack(losses).sum() if losses else torch.zeros_like(total_weight)
        self._means[stage].add({**bricks.weighted(values, weights, total_weight), TOTAL: (total, total_weight)})
        return total

    def _check_first(self, named_inputs: Mapping[str, Any], weights: Tensor) -> None:
        """Raise if the first batch has no loss at all: the training would have no gradient."""
        if self._is_checked:
            return
        if not self._loss_bricks.base:
            raise BrickGraphError("No brick of the collection outputs a loss to train on. Add a BrickLoss.")
        if not weights.any():
            self.bricks(named_inputs, tags=Stage.TRAIN.tags)  # raises MissingInputError with the name of the label
        self._is_checked = True

    def _summary(self, stage: Stage) -> dict[str, Tensor]:
        """Return the losses and scalar metrics accumulated in a stage, and reset them."""
        means = self._means[stage].compute()
        self._means[stage].reset()
        if stage is not Stage.TRAIN and means:  # the sum of the means: batches may lack some of the losses
            means[TOTAL] = torch.stack([means[name] for name in self._loss_bricks.outer if name in means]).sum()
        with self._metrics.using(stage):
            values = {**means, **self.bricks.summarize(reset=True)}
        scalars = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.numel() == 1}
        return {f"{stage.value}/{name}": value for name, value in scalars.items()}

    def _log_training(self) -> None:
        self._summarized, self._summarized_step = self._summary(Stage.TRAIN), self.global_step
        self._to_loggers(self._summarized)

    def _to_loggers(self, summary: Mapping[str, Tensor]) -> None:
        row = {name: float(value) for name, value in summary.items()}
        for logger in self.loggers if row else ():
            logger.log_metrics(row, step=self.global_step)

    def _log_visualizations(self, named_inputs: Mapping[str, Any]) -> None:
        writers = [writer for logger in self.loggers if (writer := image_writer(logger)) is not None]
        has_drawing = any(Tag.VISUALIZATION in brick.tags for brick in self.bricks.bricks().values())
        if not writers or not has_drawing or self.trainer.sanity_checking:
            return
        try:
            for name, images in draw_batch(self.bricks, named_inputs, self.num_visualizations).items():
                for write in writers:
                    write(f"{Stage.VALIDATION.value}/{name}", images, self.global_step)
        except Exception as error:  # drawing must not end a training, and a brick may wrap any function
            notes = " ".join(getattr(error, "__notes__", []))
            warnings.warn(f"No visualizations: {type(error).__name__}: {error} {notes}", stacklevel=2)


def average_statistics(collection: BrickCollection) -> None:
    """Average the normalization statistics of trainable bricks over all processes; frozen ones are equal already."""
    if world_size() == 1:
        return
    for brick in collection.bricks().values():
        if isinstance(brick, BrickModule) and brick.trainable and brick.module is not None:
            distribute_bn(brick.module, world_size(), reduce=True)


def _scales_and_weights(counts: Tensor) -> tuple[Tensor | None, Tensor]:
    """Compute the scale and the weight of each loss from its number of labelled rows on this process.

    Args:
        counts: (N,) labelled rows of each loss.

    Returns:
        (N,) the scales that make the mean of the gradients over processes that of all rows, None for one process; and
        (N,) 1 where any process has labelled rows, else 0.
    """
    if world_size() == 1:
        return None, (counts > 0).float()
    total = counts.clone()
    distributed.all_reduce(total)
    return counts / total.clamp(min=1) * world_size(), (total > 0).float()


def _batch_size(named_inputs: Mapping[str, Any]) -> int:
    return len(next(value for value in named_inputs.values() if isinstance(value, Tensor)))
