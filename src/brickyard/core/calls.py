"""One step of a call of a collection, and its errors: absent inputs, and exceptions of bricks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from brickyard.core.brick import Brick
from brickyard.core.plan import Plan, Step, owners
from brickyard.errors import BrickInputError, MissingInputError

_ONE_VALUE = "Expected more than 1 value per channel when training"  # torch's message of BatchNorm; it has no own class


def run_step(bricks: Mapping[str, Brick], step: Step, values: dict[str, Any]) -> None:
    """Run one brick, add its outputs to `values`, and drop the values that no later brick reads."""
    brick = bricks[step.path]
    values.update(brick(values, step.requests) if step.requests else brick(values))
    for name in step.drops:
        values.pop(name, None)


def missing_inputs(plan: Plan, bricks: Mapping[str, Brick], named_inputs: Mapping[str, Any]) -> MissingInputError:
    """Return the error for the inputs of a plan that were not passed."""
    missing = []
    hints = []
    producers = owners({path: brick.writes for path, brick in bricks.items()}, "write")
    for name in plan.required:
        if name not in named_inputs:
            readers = (step.path for step in plan.steps if any(r.name == name for r in bricks[step.path].reads))
            missing.append((name, next(readers)))
            if name in producers:
                hints.append(f"'{name}' is written by brick '{producers[name]}', which these tags leave out.")
    return MissingInputError(missing, list(named_inputs), " ".join(hints))


def explain(error: Exception, brick: Brick, values: Mapping[str, Any]) -> None:
    """Add a note to the exception of a brick that names the brick and the shapes of its inputs.

    Args:
        error: What the brick raised.
        brick: The brick.
        values: The values by name at that time.

    Raises:
        BrickInputError: BatchNorm in training got a single value per channel; it has the note, too.
    """
    inputs = ", ".join(f"{read.name} {_shape(values.get(read.name))}" for read in brick.reads)
    note = f"In brick '{brick.path}' ({brick.module_name}), inputs: {inputs or 'none'}."
    if isinstance(error, ValueError) and str(error).startswith(_ONE_VALUE):
        image = f", of an image {_shape(values['image'])}" if "image" in values else ""
        hint = "Train with larger batches or images, or freeze the brick."
        expected = "more than one value per channel for BatchNorm in training"
        clearer = BrickInputError(f"brick '{brick.path}'", expected, f"one{image}", hint)
        clearer.add_note(note)
        raise clearer from error
    error.add_note(note)


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return f"[{', '.join(map(_shape, value))}]"
    return type(value).__name__
