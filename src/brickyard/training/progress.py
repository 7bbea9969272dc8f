"""Report the progress of a training (the extra `train`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, final

from tqdm import tqdm

from brickyard.errors import MissingExtraError
from brickyard.training.checkpoints import CheckpointCallback

try:
    import pytorch_lightning as pl
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

_REFRESH = 10  # steps between two updates of the bar: each one waits for the loss


@final
@dataclass(frozen=True)
class Validation:
    """A validation during a training.

    Attributes:
        step: Number of optimizer steps so far.
        total_steps: Number of steps of the whole training.
        metrics: The metrics by name, e.g. `validation/seg/MeanIoU`.
        monitor: The name of the metric that selects the best model.
        best_step: The step of the best model so far, None if `monitor` was never a number.
        best_score: The value of `monitor` at that step.
        images_per_second: Training speed of all processes together since the start or the resumption, without
            validations.
    """

    step: int
    total_steps: int
    metrics: dict[str, float]
    monitor: str
    best_step: int | None
    best_score: float | None
    images_per_second: float


@final
class ProgressCallback(pl.Callback):  # type: ignore[misc]
    """Show a progress bar over all steps of a training, and report each validation.

    A resumed training starts at its step, and its speed is that of the steps since then.

    Args:
        total_steps: Number of steps of the whole training.
        batch_size: Number of images per optimizer step and process.
        show_bar: Whether to show the bar.
        on_validation: Called on rank 0 after each validation, when the model is saved.
    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        *,
        show_bar: bool,
        on_validation: Callable[[Validation], None] | None,
    ) -> None:
        self.total_steps, self.batch_size = total_steps, batch_size
        self.show_bar, self.on_validation = show_bar, on_validation
        self._bar: Any = None
        self._first_step, self._seconds, self._since = 0, 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first_step, self._since = trainer.global_step, perf_counter()
        is_shown = self.show_bar and trainer.is_global_zero
        self._bar = tqdm(
            total=self.total_steps, initial=trainer.global_step, unit="step", dynamic_ncols=True, disable=not is_shown
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._bar.disable and trainer.global_step % _REFRESH == 0:
            self._bar.set_postfix(loss=f"{float(outputs['loss']) * trainer.accumulate_grad_batches:.4f}", refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seconds += perf_counter() - self._since
        if self._bar is not None:
            self._bar.set_description("validation")

    def report(self, trainer: pl.Trainer, checkpoints: CheckpointCallback) -> None:
        """Report a validation, after `checkpoints` has saved the model."""
        if trainer.is_global_zero and self.on_validation is not None:
            images = (trainer.global_step - self._first_step) * self.batch_size * trainer.world_size
            validation = Validation(
                trainer.global_step,
                self.total_steps,
                checkpoints.metrics,
                checkpoints.monitor,
                checkpoints.best_step,
                checkpoints.best_score,
                images / max(self._seconds, 1e-9),
            )
            self._bar.clear()
            self.on_validation(validation)
        self._bar.set_description("")
        self._since = perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.update(trainer.global_step - self._bar.n)
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
