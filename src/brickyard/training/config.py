"""What a training is like, and what it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, final

from brickyard.errors import BrickInputError

FSDP = "fsdp"
Mode = Literal["min", "max"]


@final
@dataclass(frozen=True)
class TrainingConfig:
    """The course of a training.

    Attributes:
        steps: Of the optimizer, AdamW; rounded up a little, so that the last one ends with a validation.
        batch_size: Pictures a step and process.
        lr: The highest learning rate, of the heads; it rises, then falls to nothing along a cosine.
        warmup: The part of the steps in which it rises.
        weight_decay: See `parameter_groups`.
        layer_decay: See `parameter_groups`.
        clip: The largest norm of all gradients together.
        ema: The decay of the moving average of the weights, None for none.
        precision: As Lightning has it.
        every: Steps, about, between two validations, after which the model is saved as bricks.
        save_every: Steps between two checkpoints, from which a training can go on; also one after each validation.
        monitor: The figure of the validation that tells which model is best.
        mode: Whether its smallest or its largest value is best; None for the smallest of a loss, the largest of others.
        seed: Of the order of the pictures, of their random changes, and of what is random in the model.

    Raises:
        BrickInputError: A number that cannot be.
    """

    steps: int = 10_000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip: float = 5.0
    ema: float | None = None
    precision: str = "32-true"
    every: int = 1000
    save_every: int = 500
    monitor: str = "validation/loss"
    mode: Mode | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {"steps": 1, "batch_size": 1, "every": 1, "save_every": 1}
        for name, least in ranges.items():
            if (value := getattr(self, name)) < least:
                raise BrickInputError(name, f"{least} or more", f"{value}")
        if not 0 <= self.warmup <= 1:
            raise BrickInputError("warmup", "a part of the steps in [0, 1]", f"{self.warmup}")

    @property
    def best(self) -> Mode:
        """Which value of `monitor` is best."""
        return self.mode or ("min" if "loss" in self.monitor else "max")

    @property
    def validations(self) -> int:
        """How many there are."""
        return ceil(self.steps / self.every)

    @property
    def interval(self) -> int:
        """Steps between two validations."""
        return ceil(self.steps / self.validations)

    @property
    def all_steps(self) -> int:
        """Steps of the whole training."""
        return self.interval * self.validations


@final
@dataclass(frozen=True)
class TrainerConfig:
    """What a training runs on, by Lightning's names.

    Attributes:
        accelerator: "cpu", "gpu", ..., or "auto".
        devices: How many on each machine, or "auto" for all.
        nodes: How many machines.
        strategy: "ddp", "fsdp" for weights shared out over the devices (FSDP2), or "auto".
        workers: Processes that read pictures, for each device.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    workers: int = 0
