"""The hyperparameters of a training run, and the hardware it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal, final, get_args

from brickyard.errors import BrickInputError, UnknownNameError

FSDP = "fsdp"
Mode = Literal["min", "max"]
Sched = Literal["cosine", "tanh", "poly", "step", "constant"]


@final
@dataclass(frozen=True)
class TrainingConfig:
    """The hyperparameters of a training run.

    Attributes:
        steps: Number of optimizer steps. Rounded up so that a validation follows the last step.
        batch_size: Number of images per batch and process.
        accumulate: Number of batches per optimizer step, whose gradients are averaged.
        opt: timm's name of the optimizer, e.g. "adamw", "sgd" or "lamb".
        lr: Peak learning rate of the heads: linear warmup, then `sched`.
        sched: timm's name of the schedule after the warmup: "cosine", "tanh" or "poly" (a straight line) decay to 0,
            "step" to a tenth after each 30% of the steps, "constant" not at all.
        warmup: Fraction of the steps used for the warmup, in [0, 1].
        weight_decay: See `parameter_groups`.
        layer_decay: See `parameter_groups`.
        clip: Maximum norm of all gradients together; inf does not clip.
        ema: Decay of the exponential moving average of the weights; None trains without one.
        precision: Lightning's `precision`, e.g. "32-true" or "bf16-mixed".
        every: Approximate number of steps between two validations. The model is saved as bricks after each.
        save_every: Number of steps between two checkpoints. A checkpoint also follows each validation.
        monitor: Name of the validation metric that selects the best model, see `resolve_monitor`.
        mode: Whether the smallest ("min") or the largest ("max") value of `monitor` is best; None is what the metric
            declares.
        unfreeze: Paths of bricks to train although they are frozen, "backbone"; "backbone@500" freezes the brick for
            the first 500 optimizer steps, and trains it from then on.
        label_smoothing: Of the cross-entropy of all `cls` and `seg` heads, in [0, 1); stored with their losses. None
            keeps what is stored, 0 for a new model.
        patience: Number of validations in a row without a better `monitor` after which the training stops; None trains
            all steps.
        seed: Seed of the order and augmentation of the images, and of random layers of the model.

    Raises:
        BrickInputError: A value is out of range.
        UnknownNameError: There is no schedule of that name.
    """

    steps: int = 10_000
    batch_size: int = 32
    accumulate: int = 1
    opt: str = "adamw"
    lr: float = 1e-3
    sched: Sched = "cosine"
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
    patience: int | None = None
    unfreeze: tuple[str, ...] = ()
    label_smoothing: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "every", "save_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BrickInputError(name, "1 or more", f"{value}")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise BrickInputError("label_smoothing", "a fraction in [0, 1)", f"{self.label_smoothing}")
        for text in self.unfreeze:
            brick, at, step = text.partition("@")
            if not brick or (at and not (step.isascii() and step.isdigit() and int(step) < self.total_steps)):
                expected = f"BRICK or BRICK@STEP with a step below {self.total_steps}"
                raise BrickInputError("unfreeze", f"{expected}, as in backbone@{self.total_steps // 4}", f"'{text}'")
        if self.sched not in get_args(Sched):
            raise UnknownNameError("schedule", self.sched, get_args(Sched))
        if not 0 <= self.warmup <= 1:
            raise BrickInputError("warmup", "a fraction of the steps in [0, 1]", f"{self.warmup}")
        if not self.clip > 0:
            raise BrickInputError("clip", "a norm above 0, inf for none", f"{self.clip}")
        if self.mode not in ("min", "max", None):
            raise BrickInputError("mode", "'min', 'max' or None", f"{self.mode!r}")

    @property
    def unfreeze_steps(self) -> dict[str, int]:
        """Number of optimizer steps before each brick of `unfreeze` is trained, by its path."""
        parts = [text.partition("@") for text in self.unfreeze]
        return {brick: int(step or 0) for brick, _, step in parts}

    @property
    def num_validations(self) -> int:
        """Number of validations."""
        return ceil(self.steps / self.every)

    @property
    def val_interval(self) -> int:
        """Exact number of steps between two validations."""
        return ceil(self.steps / self.num_validations)

    @property
    def total_steps(self) -> int:
        """Exact number of optimizer steps."""
        return self.val_interval * self.num_validations


@final
@dataclass(frozen=True)
class TrainerConfig:
    """The hardware of a training run, in Lightning's terms.

    Attributes:
        accelerator: "cpu", "gpu", ..., or "auto".
        devices: Number of devices per node, or "auto" for all.
        nodes: Number of nodes.
        strategy: "ddp", "fsdp" for sharded weights (FSDP2), any other name that Lightning knows, or "auto".
        workers: Number of data loading processes per device.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    workers: int = 0
