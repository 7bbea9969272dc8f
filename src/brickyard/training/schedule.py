"""The optimizer of a training and its learning rate, by timm's names."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from brickyard.collection import BrickCollection
from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.training.config import Sched, TrainingConfig
from brickyard.training.optim import parameter_groups

_FUSED = "adamw"
_SECOND_ORDER = ["adahessian"]  # they need gradients of gradients
_STEP_FRACTION = 0.3  # of the schedule, until "step" lowers the learning rate


def check_optimizer(name: str) -> None:
    """Raise UnknownNameError if timm has no optimizer of a name."""
    known = list_optimizers(exclude_filters=_SECOND_ORDER)
    if name not in known:
        raise UnknownNameError("optimizer", name, known)


def optimizer_and_schedule(model: BrickCollection, config: TrainingConfig, *, is_mixed: bool) -> dict[str, Any]:
    """Create the optimizer of the trainable parameters and the schedule of its learning rate, as Lightning takes them.

    Args:
        model: The model.
        config: The hyperparameters.
        is_mixed: Whether Lightning trains in mixed precision.

    Raises:
        BrickInputError: The optimizer needs a device or a package that is not there.
    """
    groups = parameter_groups(model, lr=config.lr, weight_decay=config.weight_decay, layer_decay=config.layer_decay)
    # The fused AdamW takes half the time. It can unscale gradients itself, so Lightning's mixed precisions refuse to
    # clip them, also in bfloat16, which needs no scaling.
    options = {"fused": not is_mixed} if config.opt == _FUSED else {}
    try:
        optimizer: Optimizer = create_optimizer_v2(
            groups, config.opt, lr=config.lr, weight_decay=config.weight_decay, **options
        )
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise BrickInputError("opt", "an optimizer that runs here", f"'{config.opt}': {error}") from None
    warmup_steps = ceil(config.warmup * config.total_steps)
    decay = _decay(config.sched, max(1, config.total_steps - warmup_steps))

    def factor(step: int) -> float:
        return (step + 1) / warmup_steps if step < warmup_steps else decay(step - warmup_steps)

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _decay(sched: Sched, steps: int) -> Callable[[int], float]:
    """Return the function from a step after the warmup to the factor of the learning rate: that of a rate of 1."""
    unit = SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    power_or_rate = 1.0 if sched == "poly" else 0.1  # timm has one argument for both
    schedule, _ = create_scheduler_v2(
        unit, sched, num_epochs=steps, decay_epochs=max(1, ceil(_STEP_FRACTION * steps)), decay_rate=power_or_rate
    )

    def factor(step: int) -> float:
        if schedule is not None:  # "constant" in older versions of timm
            schedule.step(step)
        rate: float = unit.param_groups[0]["lr"]
        return rate

    return factor
