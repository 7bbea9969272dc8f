"""Stop a training whose loss is not finite, with the step and the brick (the extra `train`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, distributed

from brickyard.collection import BrickCollection
from brickyard.core.distributed import world_size
from brickyard.core.tags import Stage, Tag
from brickyard.errors import BrickInputError, MissingExtraError
from brickyard.training.lightning import TOTAL, LightningBrickCollection

try:
    import pytorch_lightning as pl
    from pytorch_lightning.trainer.states import TrainerFn
except ImportError:
    raise MissingExtraError("Training with Lightning", "train") from None

_NEVER = torch.iinfo(torch.int64).max
_HINT = "Lower the learning rate, or raise the precision. allow_nan=True (--allow-nan) trains on."


@final
class FiniteLosses(pl.Callback):  # type: ignore[misc]
    """Raise if the loss of a step or of a validation is not finite.

    One process on a CPU checks each step, before the weights change. Elsewhere a check would wait for the device or the
    other processes, so it takes place once per logged row, before each validation and before each checkpoint; the last
    checkpoint and the saved models are therefore always of finite losses.

    Raises:
        BrickInputError: The loss is not finite; the message names the step and the first brick whose outputs are not.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._first: Tensor | None = None  # (), the first step with a loss that is not finite, on the device

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: LightningBrickCollection, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: pl.Trainer, pl_module: LightningBrickCollection, loss: Tensor) -> None:
        step = trainer.global_step + 1
        first = torch.where(loss.detach().isfinite(), _NEVER, step)
        self._first = first if self._first is None else torch.minimum(self._first, first)
        if _checks_each_step(loss) or step % trainer.log_every_n_steps == 0:
            self._check(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: LightningBrickCollection) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._check(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: LightningBrickCollection) -> None:
        name = f"{Stage.VALIDATION.value}/{TOTAL}"
        value = trainer.callback_metrics.get(name)  # equal on all processes
        if value is not None and not value.isfinite() and trainer.state.fn == TrainerFn.FITTING:
            self._raise(trainer, pl_module, f"validation after step {trainer.global_step}", f"{name} {value.item()}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: LightningBrickCollection, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: pl.Trainer, pl_module: LightningBrickCollection) -> None:
        if self._first is None:
            return
        if world_size() > 1:
            distributed.all_reduce(self._first, distributed.ReduceOp.MIN)
        step = int(self._first)
        self._first = None
        if step != _NEVER:
            self._raise(trainer, pl_module, f"training, step {step}", "a loss that is nan or infinite")

    def _raise(self, trainer: pl.Trainer, pl_module: LightningBrickCollection, location: str, found: str) -> None:
        with torch.no_grad(), trainer.precision_plugin.train_step_context():
            brick = first_not_finite(pl_module.bricks, pl_module.named_inputs(self._batch))
        source = f", first in the outputs of brick '{brick}'" if brick else ""
        raise BrickInputError(location, "finite losses", f"{found}{source}", _HINT)


def _checks_each_step(loss: Tensor) -> bool:
    return loss.device.type == "cpu" and world_size() == 1


def first_not_finite(collection: BrickCollection, named_inputs: Mapping[str, Any]) -> str | None:
    """Run a batch and return the path of the first brick that writes nan or infinite values, None if none does."""
    found: list[str] = []
    with _watching(collection, found):
        collection(named_inputs, tags={Tag.MODEL, Tag.LOSS}, skip_missing=True)
    return next(iter(found), None)


@contextmanager
def _watching(collection: BrickCollection, found: list[str]) -> Iterator[None]:
    def hook(path: str, _brick: Any, _inputs: Any, outputs: Any) -> None:
        if not all(_is_finite(value) for value in outputs.values()):
            found.append(path)

    handles = [
        brick.register_forward_hook(partial(hook, path)) for path, brick in collection.bricks().items() if brick.writes
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    return all(map(_is_finite, value)) if isinstance(value, Sequence) and not isinstance(value, str) else True
