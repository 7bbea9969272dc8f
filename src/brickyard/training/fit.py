"""Train a model on a data set, from the first step or from where it stopped (the extra `train`)."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import ceil, cos, pi
from pathlib import Path
from typing import Any, final

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from brickyard.collection import BrickCollection
from brickyard.data.batches import Batches, TrainingOrder, evaluation_batches, training_batches
from brickyard.data.dataset import LabelledDataset
from brickyard.errors import (
    BrickInputError,
    BrickIntegrityError,
    BrickMismatchError,
    BrickNotFoundError,
    MissingExtraError,
)
from brickyard.storage.atomic import write_whole
from brickyard.training.checkpoints import CHECKPOINT, CheckpointCallback, check_checkpoint
from brickyard.training.config import FSDP, TrainerConfig, TrainingConfig
from brickyard.training.ema import MovingAverage
from brickyard.training.lightning import LightningBrickCollection
from brickyard.training.matching import check_classes
from brickyard.training.optim import parameter_groups
from brickyard.training.run_log import RunLog

try:
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import TQDMProgressBar
    from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

SETTINGS = "train.json"
_ROWS = 200  # of the log, about, for a training
_PICTURES = 4  # are drawn at each validation
_EXPECTED_WARNINGS = (
    (r"FSDP2-wrapped module .* returned a view tensor", UserWarning),  # which nobody changes in place
    (r".*treespec, LeafSpec.*is deprecated", FutureWarning),  # Lightning's own use of torch
    (r"Found \d+ module\(s\) in eval mode", UserWarning),  # frozen bricks are
    (r"The '\w+_dataloader' does not have many workers", UserWarning),  # as asked for
)


def fit(
    model: BrickCollection,
    train: LabelledDataset,
    val: LabelledDataset,
    out: Path,
    course: TrainingConfig,
    machines: TrainerConfig = TrainerConfig(),  # noqa: B008 - it is frozen
    *,
    resume: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: bool = False,
    tell: Callable[[int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train a model.

    Args:
        model: It is trained itself, and has the averaged weights in the end where there are any. Its convolutions are
            kept in channels-last order, which is faster. Its heads remember the size of the images.
        train: What to learn from.
        val: What to validate on.
        out: The folder of the run, see `Keeper` and `RunLog`.
        course: How.
        machines: On what.
        resume: Go on from the last checkpoint in `out`: what comes is what would have come without the interruption.
        provenance: What else must be the same when a run is resumed, JSON values: model, data, ...
        progress: Show a bar.
        tell: Called after each validation, on the first process, with the step and the figures.

    Returns:
        The figures of the last validation.

    Raises:
        BrickInputError: Nothing to train, or machines that are not there.
        FileExistsError: `out` holds a run, and `resume` is False.
        BrickNotFoundError: `out` holds no run, and `resume` is True.
        BrickMismatchError: The run in `out` has another course or origin; or data with other classes than the heads'.
        BrickIntegrityError, UnsafeBrickError: What `out` holds is damaged, or would run code.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise BrickInputError("fit", "a model with something to train", "every brick frozen")
    for what, data in (("training data", train), ("validation data", val)):
        if not len(data):
            raise BrickInputError(what, "one picture or more", "none")
        check_classes(model, data, what)
    run_log = RunLog(out)
    _note_image_size(model, train)
    if machines.strategy != FSDP:  # which takes no other order than torch's own
        model.to(memory_format=torch.channels_last)
    module = LightningBrickCollection(
        out.parent, out.name, model, lambda _: _schedule(model, course), pictures=_PICTURES
    )
    average = None if course.ema is None else MovingAverage(model, course.ema)
    keeper = CheckpointCallback(
        out, model, average, run_log, every=course.save_every, monitor=course.monitor, mode=course.best
    )
    callbacks = [*([average] if average else []), keeper, *([TQDMProgressBar(refresh_rate=10)] if progress else [])]
    with _quiet():
        trainer = _trainer(
            accelerator=machines.accelerator,
            devices=machines.devices,
            num_nodes=machines.nodes,
            strategy=_strategy(machines),
            precision=course.precision,
            max_steps=course.all_steps,
            max_epochs=-1,
            val_check_interval=course.interval,
            num_sanity_val_steps=0,
            gradient_clip_val=course.clip,
            use_distributed_sampler=False,
            log_every_n_steps=max(1, course.all_steps // _ROWS),
            logger=run_log,
            callbacks=[*callbacks, *([_ProgressCallback(tell)] if tell else [])],
            enable_progress_bar=progress,
            enable_model_summary=False,
            default_root_dir=out,
        )
        if trainer.is_global_zero:
            _open(out, {**(provenance or {}), **asdict(course)}, resume)
        checkpoint = out / CHECKPOINT
        goes_on = resume and checkpoint.exists()
        if goes_on:
            check_checkpoint(checkpoint)
        torch.manual_seed(course.seed)
        trainer.fit(
            module,
            datamodule=_Data(train, val, course, machines.workers),
            ckpt_path=checkpoint if goes_on else None,
            weights_only=True,
        )
    return keeper.figures


def _trainer(**options: Any) -> pl.Trainer:
    try:
        return pl.Trainer(**options)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise BrickInputError("fit", "machines and a precision that Lightning has here", f"{error}") from None


def _note_image_size(model: BrickCollection, data: LabelledDataset) -> None:
    """Let the heads that learn from the data know the size of its images, [H, W]: they may be used far from here."""
    heads = [model[f"{head}/head"] for head in data.labels if f"{head}/head" in model]
    if heads and len(data):
        height, width = data[0]["image"].shape[-2:]
        for head in heads:
            head.head = replace(head.head, image_size=(int(height), int(width)))


def _open(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Begin a run in a folder, or see whether the one in it can go on."""
    file = out / SETTINGS
    if resume and not file.exists():
        raise BrickNotFoundError(f"No training in {out} to resume. Start it without resume first.")
    if file.exists() and not resume:
        raise FileExistsError(f"{out} holds a training. Resume it, or choose another folder.")
    if resume:
        old = _settings(file)
        names = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
        problems = [f"{name}: expected {old.get(name)!r}, found {settings.get(name)!r}" for name in names]
        if problems:
            raise BrickMismatchError(f"The training in {out} is another", problems)
    else:
        write_whole(file, json.dumps(settings, indent=2) + "\n")
    if not (out / CHECKPOINT).exists():
        RunLog(out).cut(0)


def _settings(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise BrickIntegrityError(f"{file} is damaged: expected the settings of a training, as JSON.") from None
    return found


def _schedule(model: BrickCollection, course: TrainingConfig) -> dict[str, Any]:
    groups = parameter_groups(model, lr=course.lr, weight_decay=course.weight_decay, layer_decay=course.layer_decay)
    # The fused one takes half the time. With "16-mixed" it scales gradients itself, and Lightning could not clip them.
    optimizer = AdamW(groups, lr=course.lr, fused=course.precision != "16-mixed")
    rising = ceil(course.warmup * course.all_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (1 + cos(pi * (step - rising) / max(1, course.all_steps - rising))) / 2

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _strategy(machines: TrainerConfig) -> Strategy | str:
    if machines.strategy == FSDP:
        devices = machines.devices if isinstance(machines.devices, int) else max(1, torch.accelerator.device_count())
        size = devices * machines.nodes  # by default Lightning shares weights out over machines, not over their devices
        return ModelParallelStrategy(size, tensor_parallel_size=1, save_distributed_checkpoint=False)
    alone = (machines.devices, machines.nodes) == (1, 1)
    if machines.strategy == "ddp" or (machines.strategy == "auto" and not alone):
        return DDPStrategy(find_unused_parameters=True)  # layers of a backbone that no head of the model reads
    return machines.strategy


@final
class _Data(pl.LightningDataModule):  # type: ignore[misc]
    """The batches of each process."""

    def __init__(self, train: LabelledDataset, val: LabelledDataset, course: TrainingConfig, workers: int) -> None:
        super().__init__()
        self.train, self.val, self.course, self.workers = train, val, course, workers

    def train_dataloader(self) -> Batches:
        course = self.course
        order = TrainingOrder(len(self.train), course.batch_size, course.all_steps, seed=course.seed, **self._place())
        return training_batches(self.train, order, workers=self.workers)

    def val_dataloader(self) -> Batches:
        return evaluation_batches(self.val, self.course.batch_size, workers=self.workers, **self._place())

    def _place(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}


@final
class _ProgressCallback(pl.Callback):  # type: ignore[misc]
    def __init__(self, tell: Callable[[int, dict[str, float]], None]) -> None:
        self.tell = tell

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            figures = trainer.callback_metrics
            self.tell(trainer.global_step, {name: float(figures[name]) for name in figures if "validation/" in name})


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, Lightning does not tell what is expected."""
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
