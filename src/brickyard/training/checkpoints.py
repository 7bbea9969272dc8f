"""What a training run keeps: a checkpoint to go on from, and bricks to use (the extra `train`)."""

from __future__ import annotations

import copy
from math import isnan
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, final

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from brickyard.collection import BrickCollection
from brickyard.errors import BrickIntegrityError, MissingExtraError, UnknownNameError, UnsafeBrickError
from brickyard.training.config import Mode
from brickyard.training.ema import MovingAverage
from brickyard.training.lightning import share_statistics
from brickyard.training.run_log import RunLog

try:
    import pytorch_lightning as pl
    from pytorch_lightning.trainer.states import TrainerFn
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

CHECKPOINT = "last.ckpt"


def check_checkpoint(file: Path) -> None:
    """See whether a training can go on from a file.

    Raises:
        BrickIntegrityError: It is cut short, or something else.
        UnsafeBrickError: It holds more than tensors and plain values, and would run code.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        is_one = {"pytorch-lightning_version", "state_dict", "loops"} <= state.keys()
    except UnpicklingError as error:
        raise UnsafeBrickError(f"{file} holds more than tensors and plain values: {error}") from None
    except Exception as error:  # of every kind: it may be any file
        raise BrickIntegrityError(f"{file} cannot be read: {type(error).__name__}: {error}") from None
    if not is_one:
        raise BrickIntegrityError(f"{file} is no checkpoint of a training.")


@final
class CheckpointCallback(pl.callbacks.Checkpoint):  # type: ignore[misc]
    """Saves the whole state every so many steps, and the model as bricks after each validation.

    Args:
        folder: Of the run: `last.ckpt` to go on from, `last/` and `best/` with bricks.
        model: The collection that is trained.
        average: What is saved as bricks instead of the model's own weights.
        run_log: Its rows after a checkpoint are forgotten when a training goes on from there.
        every: Steps between two checkpoints.
        monitor: The figure of the validation that tells which model is best.
        mode: Whether its smallest or its largest value is best.

    Attributes:
        figures: Those of the last validation.

    Raises:
        UnknownNameError: After the first validation, `monitor` is none of its figures.
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
    ) -> None:
        self.folder, self.model, self.average, self.run_log = folder, model, average, run_log
        self.every, self.monitor, self.mode = every, monitor, mode
        self.figures: dict[str, float] = {}
        self._best: float | None = None
        self._whole: BrickCollection | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if pl_module.device_mesh is not None:  # the weights will be shared out; here they are still whole
            self._whole = copy.deepcopy(self.model)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        validates = (batch_idx + 1) % trainer.val_check_batch == 0  # then it is saved afterwards
        if trainer.global_step % self.every == 0 and not validates:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        figures = trainer.callback_metrics
        self.figures = {name: float(figures[name]) for name in figures if name.startswith("validation/")}
        if self.monitor not in self.figures:
            raise UnknownNameError("figure to monitor", self.monitor, self.figures)
        score = self.figures[self.monitor] * {"min": -1, "max": 1}[self.mode]
        is_best = self._best is None or score > self._best
        if is_best and not isnan(score):  # the first is kept whatever it is, until there is a score
            self._best = score
        model = self._model_to_keep()
        if trainer.is_global_zero:
            for name in ("last", "best") if is_best else ("last",):
                model.save_pretrained(self.folder / name)
        self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "figures": self.figures, "log_size": self.run_log.size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self.figures = state_dict["best"], state_dict["figures"]
        self.run_log.cut(state_dict["log_size"])

    def _model_to_keep(self) -> BrickCollection:
        if self.average is not None:
            return self.average.averaged
        if self._whole is None:
            return self.model
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if state:  # on the first process
            self._whole.load_state_dict(state)
        return self._whole

    def _save(self, trainer: pl.Trainer) -> None:
        for model in [self.model, *([self.average.averaged] if self.average else [])]:
            share_statistics(model)  # a checkpoint has those of the first process only
        trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=False)
