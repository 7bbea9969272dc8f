"""Adapt the return values of losses and visualizers to a fixed number of values, as bricks write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from torch import Tensor, nn

from brickyard.errors import BrickInputError


@final
class SubLosses(nn.Module):
    """Unpack the sub-losses of a loss: (loss, {name: sub-loss}) -> (loss, sub-loss, ...).

    Args:
        loss: The wrapped loss.
        names: The names of the sub-losses, in the order of the output.

    Raises:
        BrickInputError: In `forward`, if the loss returns something else.

    Example:
        >>> import torch
        >>> class Loss(nn.Module):
        ...     def forward(self, logits):
        ...         return logits.sum(), {"b": logits.max(), "a": logits.min()}
        >>> [value.item() for value in SubLosses(Loss(), ["a", "b"])(torch.tensor([1.0, 2.0]))]
        [3.0, 1.0, 2.0]
    """

    def __init__(self, loss: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.loss = loss
        self.names = tuple(names)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        output = self.loss(*args, **kwargs)
        location = type(self.loss).__name__
        if not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], dict)):
            raise BrickInputError(location, "a return value (loss, {name: sub-loss})", type(output).__name__)
        main, sub_losses = output
        if set(sub_losses) != set(self.names):
            raise BrickInputError(location, f"the sub-losses {sorted(self.names)}", f"{sorted(sub_losses)}")
        return main, *(sub_losses[name] for name in self.names)


@final
class ImagePair(nn.Module):
    """Adapt a visualizer that returns one image, or a tuple (targets, predictions), to always return two values.

    The visualizer gets copies of `prediction_canvas` and `target_canvas`, which it may draw on.

    Args:
        visualizer: The wrapped function or module, called with keyword arguments.

    Shape: -> the visualization of the predictions, and that of the targets or None.
    """

    def __init__(self, visualizer: Callable[..., Any]) -> None:
        super().__init__()
        self.visualizer = visualizer

    def forward(self, **values: Any) -> tuple[Tensor, Tensor | None]:
        copies = {name: value.clone() for name, value in values.items() if name.endswith("_canvas")}
        output = self.visualizer(**values | copies)
        if isinstance(output, tuple):
            target, prediction = output
            return prediction, target
        return output, None
