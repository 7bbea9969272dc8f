"""Checkpoints of a training run: the whole state to resume from, and the model as bricks (the extra `train`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import isnan
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, final

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from brickyard.collection import BrickCollection
from brickyard.errors import BrickIntegrityError, MissingExtraError, UnknownNameError, UnsafeBrickError
from brickyard.storage.atomic import write_atomically
from brickyard.training.config import Mode
from brickyard.training.ema import MovingAverage
from brickyard.training.lightning import average_statistics
from brickyard.training.run_folder import BEST, CHECKPOINT, LAST
from brickyard.training.run_log import RunLog

try:
    import pytorch_lightning as pl
    from pytorch_lightning.plugins.io import TorchCheckpointIO
    from pytorch_lightning.trainer.states import TrainerFn
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

_SIGN: dict[Mode, int] = {"min": -1, "max": 1}
_CHECKPOINT_KEYS = {"pytorch-lightning_version", "state_dict", "loops"}


def check_checkpoint(file: Path) -> None:
    """Check that training can be resumed from a file, without running code from it.

    Raises:
        BrickIntegrityError: The file is truncated, or is not a Lightning checkpoint.
        UnsafeBrickError: The file holds more than tensors and plain values; unpickling it could run code.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        is_checkpoint = state.keys() >= _CHECKPOINT_KEYS
    except UnpicklingError as error:
        raise UnsafeBrickError(f"{file} holds more than tensors and plain values: {error}") from None
    except Exception as error:  # torch.load raises many types for an arbitrary file
        raise BrickIntegrityError(f"{file} cannot be read: {type(error).__name__}: {error}") from None
    if not is_checkpoint:
        raise BrickIntegrityError(
            f"{file} is not a Lightning checkpoint: expected the keys {sorted(_CHECKPOINT_KEYS)}."
        )


@final
class AtomicCheckpointIO(TorchCheckpointIO):  # type: ignore[misc]
    """Lightning's checkpoint file, written next to its target, flushed to disk and renamed.

    Lightning's own writer moves the file from the folder for temporary files; where that is on another file system, the
    move is a copy, and a kill during it loses the previous checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(target) as temp:
            torch.save(checkpoint, temp)


@final
class CheckpointCallback(pl.callbacks.Checkpoint):  # type: ignore[misc]
    """Save the whole training state every few steps, and the model as bricks after each validation.

    Args:
        folder: The folder of the run. It gets `last.ckpt` to resume from, and `last/` and `best/` with bricks.
        model: The collection that is trained.
        average: The moving average whose weights are saved as bricks; None saves the model's weights.
        run_log: The log of the run. Resuming from a checkpoint removes the rows logged after it.
        every: Number of optimizer steps between two checkpoints.
        monitor: Name of the validation metric that selects the best model.
        mode: Whether the smallest ("min") or the largest ("max") value of `monitor` is best.
        patience: Number of validations in a row without a better model after which the training stops, None for none.
        on_saved: Called after each validation, when the model is saved.

    Attributes:
        metrics: The metrics of the last validation.
        unimproved: Number of validations since the one of the best model.
        best_step: The step of the best model, None if `monitor` was never a number.

    Raises:
        UnknownNameError: After the first validation: `monitor` is not one of its metrics.
    """

    def __init__(
        self,
        folder: Path,
        model: BrickCollection,
        average: MovingAverage | None,
        run_log: RunLog,
        *,
        every: int,
        monitor: str,
        mode: Mode,
        patience: int | None = None,
        on_saved: Callable[[pl.Trainer, CheckpointCallback], None] | None = None,
    ) -> None:
        self.folder, self.model, self.average, self.run_log = folder, model, average, run_log
        self.every, self.monitor, self.mode, self.patience, self.on_saved = every, monitor, mode, patience, on_saved
        self.metrics: dict[str, float] = {}
        self.best_step: int | None = None
        self.unimproved = 0
        self._best: float | None = None
        self._unsharded: BrickCollection | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if pl_module.device_mesh is not None:  # the weights are sharded after this hook
            self._unsharded = copy.deepcopy(self.model)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_if_unimproved(trainer)  # a resumed training may have stopped before

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:  # gradients are no part of a checkpoint
            return
        validates = (batch_idx + 1) % trainer.val_check_batch == 0  # a checkpoint follows the validation
        if trainer.global_step % self.every == 0 and not validates:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        self.metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("validation/")
        }
        if self.monitor not in self.metrics:
            raise UnknownNameError("metric to monitor", self.monitor, self.metrics)
        score = self.metrics[self.monitor] * _SIGN[self.mode]
        is_best = self._best is None or score > self._best
        if is_best and not isnan(score):  # until a score is a number, each model replaces the previous one
            self._best, self.best_step, self.unimproved = score, trainer.global_step, 0
        else:
            self.unimproved += 1
        model = self._model_to_save()
        if trainer.is_global_zero:
            for name in (LAST, BEST) if is_best else (LAST,):
                model.save_pretrained(self.folder / name)
        self._save(trainer)
        if self.on_saved is not None:
            self.on_saved(trainer, self)
        self._stop_if_unimproved(trainer)

    @property
    def best_score(self) -> float | None:
        """The value of `monitor` of the best model."""
        return None if self._best is None else self._best * _SIGN[self.mode]

    def state_dict(self) -> dict[str, Any]:
        state = {"best": self._best, "best_step": self.best_step, "metrics": self.metrics}
        return {**state, "unimproved": self.unimproved, "log_size": self.run_log.size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self.best_step = state_dict["best"], state_dict.get("best_step")
        self.metrics, self.unimproved = state_dict["metrics"], state_dict["unimproved"]
        self.run_log.truncate(state_dict["log_size"])

    def _stop_if_unimproved(self, trainer: pl.Trainer) -> None:
        if self.patience is not None and self.unimproved >= self.patience:
            trainer.should_stop = True

    def _model_to_save(self) -> BrickCollection:
        if self.average is not None:
            return self.average.averaged
        if self._unsharded is None:
            return self.model
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if state:  # empty except on rank 0
            self._unsharded.load_state_dict(state)
        return self._unsharded

    def _save(self, trainer: pl.Trainer) -> None:
        for model in [self.model, *([self.average.averaged] if self.average else [])]:
            average_statistics(model)  # a checkpoint holds those of rank 0 only
        trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
