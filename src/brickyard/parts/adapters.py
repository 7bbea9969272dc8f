"""From what losses and visualisers may return to a fixed number of values, as a brick writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from torch import Tensor, nn

from brickyard.errors import BrickInputError


@final
class SubLosses(nn.Module):
    """A loss that returns (main, {name: sub-loss}) as one that returns (main, sub-loss, ...).

    Args:
        loss: Called with the inputs.
        names: The sub-losses, in the order to return them.

    Raises:
        BrickInputError: At the call: the loss returns something else.
    """

    def __init__(self, loss: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.loss = loss
        self.names = tuple(names)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        returned = self.loss(*args, **kwargs)
        location = type(self.loss).__name__
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
            raise BrickInputError(location, "a tuple (loss, {name: sub-loss}) returned", type(returned).__name__)
        main, others = returned
        if set(others) != set(self.names):
            raise BrickInputError(location, f"the sub-losses {sorted(self.names)} returned", f"{sorted(others)}")
        return main, *(others[name] for name in self.names)


@final
class ImagePair(nn.Module):
    """A visualiser that returns one picture, or two of targets and predictions, as one that returns two.

    It is given copies of `prediction_canvas` and `target_canvas`, so that it can draw on them.

    Args:
        visualizer: Called with the inputs, by keyword.

    Shape: -> the picture of the predictions, and that of the targets or None.
    """

    def __init__(self, visualizer: Callable[..., Any]) -> None:
        super().__init__()
        self.visualizer = visualizer

    def forward(self, **values: Any) -> tuple[Tensor, Tensor | None]:
        copies = {name: value.clone() for name, value in values.items() if name.endswith("_canvas")}
        drawn = self.visualizer(**values | copies)
        if isinstance(drawn, tuple):
            target, prediction = drawn
            return prediction, target
        return drawn, None
