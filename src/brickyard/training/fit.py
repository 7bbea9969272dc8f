"""Train a model on a data set, or resume an interrupted training (the extra `train`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from brickyard.collection import BrickCollection
from brickyard.data.batches import Batches, TrainingOrder, evaluation_batches, training_batches
from brickyard.data.dataset import LabelledDataset
from brickyard.errors import BrickInputError, MissingExtraError
from brickyard.training.checkpoints import AtomicCheckpointIO, CheckpointCallback, check_checkpoint
from brickyard.training.config import FSDP, TrainerConfig, TrainingConfig
from brickyard.training.ema import MovingAverage
from brickyard.training.finite import FiniteLosses
from brickyard.training.lightning import LightningBrickCollection
from brickyard.training.loggers import check_loggers, open_loggers
from brickyard.training.matching import (
    check_classes,
    describe_training,
    smooth_labels,
    transformed,
    unlabelled_heads,
    without_unread_masks,
)
from brickyard.training.monitor import resolve_monitor
from brickyard.training.progress import ProgressCallback, Validation
from brickyard.training.run_folder import CHECKPOINT, LOGGERS, open_run, remove_run, removed_if_not_started
from brickyard.training.run_log import RunLog
from brickyard.training.schedule import check_optimizer, optimizer_and_schedule
from brickyard.training.unfreezing import Unfreezing, unfreeze

try:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.plugins import MixedPrecision
    from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

_LOG_ROWS = 200  # approximate number of rows that a whole training logs
_NUM_VISUALIZATIONS = 4  # images drawn at each validation
_EXPECTED_WARNINGS = (
    (r"FSDP2-wrapped module .* returned a view tensor", UserWarning),  # views are not changed in place
    (r".*treespec, LeafSpec.*is deprecated", FutureWarning),  # raised by Lightning's use of torch
    (r"You have overridden `on_before_batch_transfer`", UserWarning),  # it is the module's that checks labels
    (r"Found \d+ module\(s\) in eval mode", UserWarning),  # frozen bricks are in eval mode
    (r"The '\w+_dataloader' does not have many workers", UserWarning),  # the caller chooses the number
)


def fit(
    model: BrickCollection,
    train: LabelledDataset,
    val: LabelledDataset,
    out: Path,
    config: TrainingConfig,
    trainer_config: TrainerConfig = TrainerConfig(),  # noqa: B008 - it is frozen
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_unlabelled: bool = False,
    allow_nan: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: bool = False,
    on_validation: Callable[[Validation], None] | None = None,
    transform: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    loggers: Sequence[Logger | str] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> dict[str, float]:
    """Train a model.

    Args:
        model: The model, trained in place; it holds the averaged weights afterwards if `config.ema` is set. Its
            parameters are converted to the channels-last memory format, which is faster for convolutions. The metadata
            of its heads gets the image size and the resize mode of the data, and its losses `config.label_smoothing`.
        train: The training data.
        val: The validation data.
        out: The folder of the run; see `CheckpointCallback` and `RunLog` for what is written.
        config: The hyperparameters.
        trainer_config: The hardware.
        resume: Resume from the last checkpoint in `out`, with the same results as an uninterrupted training.
        overwrite: Replace the run in `out`; without one, nothing is replaced.
        allow_unlabelled: Whether the training data may lack the labels of a head. Its loss is 0, and unless it has
            trained weights, it is marked as not trained, so that prediction warns.
        allow_nan: Whether to train on when a loss is not finite.
        provenance: JSON values stored with the settings in `config.yaml` (model, data, ...). They must be the same to
            resume a run.
        progress: Whether to show a progress bar.
        on_validation: Called after each validation, on rank 0, when the model is saved.
        transform: A transform of `torchvision.transforms.v2` for the images and labels of the training, after those of
            the data; see `Transformed`. It is not stored: pass the same to resume.
        loggers: Lightning's loggers, or "csv", "tensorboard", "wandb" or "mlflow", that get the metrics and settings
            too, and the visualizations if they take images. Those that are named write into `out/loggers` or to their
            server; a resumed training is a new version or run there.
        callbacks: Lightning's callbacks. To resume the training, their state must be tensors and plain values.

    Returns:
        The metrics of the last validation.

    Raises:
        BrickInputError: No trainable parameters, an empty data set, an accelerator or precision that Lightning refuses,
            a loss that is not finite, or both `resume` and `overwrite`.
        UnknownNameError: The model has no metric `config.monitor`, or no brick of `config.unfreeze`, or there is no
            optimizer or logger of a name.
        MissingExtraError: The package of a named logger is not installed.
        FileExistsError: `out` holds a run, and both `resume` and `overwrite` are False.
        BrickNotFoundError: `out` holds no run, and `resume` is True.
        BrickMismatchError: The run in `out` has other settings or provenance, or the data has other classes than the
            heads, or no labels for one of them.
        BrickIntegrityError, UnsafeBrickError: The files in `out` are damaged, or loading them would run code.
    """
    if resume and overwrite:
        raise BrickInputError("fit", "either resume or overwrite", "both")
    unfreeze(model, config.unfreeze_steps)
    _check(model, train, val)
    check_loggers(loggers)
    check_optimizer(config.opt)
    run_log, checkpoint = RunLog(out), out / CHECKPOINT
    settings = {**(provenance or {}), **asdict(config), "unfreeze": list(config.unfreeze)}
    settings |= {**asdict(trainer_config), "allow_unlabelled": allow_unlabelled, "allow_nan": allow_nan}
    settings |= {"loggers": [logger for logger in loggers if isinstance(logger, str)]}
    if config.label_smoothing is not None:
        smooth_labels(model, config.label_smoothing)
    unlabelled = unlabelled_heads(model, train, allow=allow_unlabelled)
    describe_training(model, train)
    train, val = without_unread_masks(train, model), without_unread_masks(val, model)
    if transform is not None:
        train = transformed(train, transform)
        train[0]  # what the transform returns is checked before the run starts
    if trainer_config.strategy != FSDP:  # FSDP2 keeps torch's default memory format
        model.to(memory_format=torch.channels_last)
    module = LightningBrickCollection(
        out.parent,
        out.name,
        model,
        lambda _: optimizer_and_schedule(model, config, is_mixed=isinstance(trainer.precision_plugin, MixedPrecision)),
        num_visualizations=_NUM_VISUALIZATIONS,
    )
    monitor, mode = resolve_monitor(model, config.monitor, config.mode)
    average = None if config.ema is None else MovingAverage(model, config.ema)
    reporter = ProgressCallback(
        config.total_steps, config.batch_size * config.accumulate, show_bar=progress, on_validation=on_validation
    )
    checkpoints = CheckpointCallback(
        out,
        model,
        average,
        run_log,
        every=config.save_every,
        monitor=monitor,
        mode=mode,
        patience=config.patience,
        on_saved=reporter.report,
    )
    of_run: list[pl.Callback] = [average] if average else []
    of_run += [] if allow_nan else [FiniteLosses()]
    of_run += [Unfreezing(model, config.unfreeze_steps)] if config.unfreeze else []
    of_run += [*callbacks, reporter, checkpoints]
    with _expected_messages_ignored(), removed_if_not_started(out, overwrite=overwrite):
        trainer = _create_trainer(
            accelerator=trainer_config.accelerator,
            devices=trainer_config.devices,
            num_nodes=trainer_config.nodes,
            strategy=_strategy(trainer_config),
            precision=config.precision,
            max_steps=config.total_steps,
            max_epochs=-1,
            accumulate_grad_batches=config.accumulate,
            val_check_interval=config.val_interval * config.accumulate,
            num_sanity_val_steps=0,
            gradient_clip_val=config.clip,
            use_distributed_sampler=False,
            log_every_n_steps=max(1, config.total_steps // _LOG_ROWS),
            logger=run_log,
            callbacks=of_run,
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=out,
        )
        if trainer.is_global_zero:
            if overwrite:
                remove_run(out)
            open_run(out, settings, resume=resume, may_differ=[*asdict(trainer_config), "allow_nan", "loggers"])
            if not checkpoint.exists():
                run_log.truncate(0)
            trainer.loggers = [run_log, *open_loggers(loggers, out / LOGGERS, settings)]
        resumes = resume and checkpoint.exists()
        if resumes:
            check_checkpoint(checkpoint)
        torch.manual_seed(config.seed)
        with _without_gradients([model[head] for head in unlabelled]):
            trainer.fit(
                module,
                datamodule=_DataModule(train, val, config, trainer_config.workers),
                ckpt_path=checkpoint if resumes else None,
                weights_only=True,
            )
    return checkpoints.metrics


def _check(model: BrickCollection, train: LabelledDataset, val: LabelledDataset) -> None:
    """Check that there is something to train, on data with the classes of the model."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise BrickInputError("fit", "a model with trainable parameters", "every brick frozen")
    for what, data in (("training data", train), ("validation data", val)):
        if not len(data):
            raise BrickInputError(what, "one image or more", "none")
        check_classes(model, data, what)


def _create_trainer(**options: Any) -> pl.Trainer:
    try:
        return pl.Trainer(**options)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise BrickInputError(
            "fit", "hardware, a precision and callbacks that Lightning supports", f"{error}"
        ) from None


def _strategy(config: TrainerConfig) -> Strategy | str:
    if config.strategy == FSDP:
        devices = config.devices if isinstance(config.devices, int) else max(1, torch.accelerator.device_count())
        size = devices * config.nodes  # Lightning's default shards over nodes, not over the devices of a node
        return ModelParallelStrategy(size, tensor_parallel_size=1, save_distributed_checkpoint=False)
    is_single_device = (config.devices, config.nodes) == (1, 1)
    if config.strategy == "ddp" or (config.strategy == "auto" and not is_single_device):
        return DDPStrategy(find_unused_parameters=True)  # layers of a backbone whose features no head reads
    return config.strategy


@final
class _DataModule(pl.LightningDataModule):  # type: ignore[misc]
    """The data loaders of each process."""

    def __init__(self, train: LabelledDataset, val: LabelledDataset, config: TrainingConfig, workers: int) -> None:
        super().__init__()
        self.train, self.val, self.config, self.workers = train, val, config, workers

    def train_dataloader(self) -> Batches:
        config = self.config
        order = TrainingOrder(
            self.train,
            config.batch_size,
            config.total_steps * config.accumulate,
            seed=config.seed,
            **self._rank_and_world_size(),
        )
        return training_batches(self.train, order, workers=self.workers)

    def val_dataloader(self) -> Batches:
        return evaluation_batches(self.val, self.config.batch_size, workers=self.workers, **self._rank_and_world_size())

    def _rank_and_world_size(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}


@contextmanager
def _without_gradients(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Leave the parameters of modules as they are within the block: weight decay would shrink them without a loss."""
    trainable = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _expected_messages_ignored() -> Iterator[None]:
    """Suppress Lightning's info messages and the expected warnings, within the block."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message, category in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        logger.setLevel(level)
