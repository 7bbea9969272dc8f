"""Bricks that wrap modules: trainable, frozen, or a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from brickyard.core.brick import Brick, InputNames, Tags
from brickyard.core.names import join, prefix_of
from brickyard.core.private_names import submodules
from brickyard.core.tags import Tag
from brickyard.errors import BrickGraphError


@runtime_checkable
class HasSummary(Protocol):
    """A module that accumulates values over calls, such as a post-processor that counts."""

    def summarize(self, reset: bool) -> dict[str, Any]: ...


class BrickModule(Brick):
    """A module, or any callable, with named inputs and outputs.

    Args:
        model: Called with the values of `input_names`; returns one value, a tuple, a list or a dictionary.
        input_names: See `Brick`.
        output_names: See `Brick`; a returned dictionary has the last parts of these names as keys.
        tags: See `Brick`.
        loss_output_names: The outputs that are losses: "all", "none" or a list of output names. The others are
            sub-losses, which are reported but not summed.
        calculate_gradients: False runs the module without autograd.
        trainable: False freezes the parameters and keeps the module in evaluation mode, so that the statistics of
            normalisation layers are frozen as well. True leaves every layer as it is.
        group: See `Brick`.

    Raises:
        BrickGraphError: `loss_output_names` has a name that is not an output.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#355070"}

    def __init__(
        self,
        model: nn.Module | Callable[..., Any],
        input_names: InputNames,
        output_names: Sequence[str],
        tags: Tags = Tag.MODEL,
        loss_output_names: Sequence[str] | Literal["all", "none"] = "none",
        calculate_gradients: bool = True,
        trainable: bool = True,
        group: Tags | None = None,
    ) -> None:
        super().__init__(input_names, output_names, tags, group)
        self.model = model
        self.calculate_gradients = calculate_gradients
        self.trainable = True
        self._loss_indices = _loss_indices(loss_output_names, list(output_names))
        if not trainable:
            self.freeze()

    @property
    def settings(self) -> dict[str, Any]:
        mode = {"calculate_gradients": self.calculate_gradients, "trainable": self.trainable}
        return {**self._names_and_tags(), "loss_output_names": self._declared_losses, **mode}

    @property
    def _declared_losses(self) -> list[str]:
        return [self._declared_outputs[index] for index in self._loss_indices]

    @property
    def wrapped(self) -> nn.Module | Callable[..., Any]:
        return self.model

    @property
    def module(self) -> nn.Module | None:
        return self.model if isinstance(self.model, nn.Module) else None

    @property
    def module_name(self) -> str:
        return str(getattr(self.model, "__name__", type(self.model).__name__))

    @property
    def loss_names(self) -> list[str]:
        return [self.writes[index] for index in self._loss_indices]

    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        try:
            model: Any = submodules(self)["model"]  # `self.model` is a slow look-up for a submodule, paid at every call
        except KeyError:
            model = self.model
        if self.calculate_gradients:
            # The common case, one input and one tensor, is fast: naming values can cost as much as a small module.
            read = self._sole_read
            if read in named_inputs:
                output = model(named_inputs[read])
                write = self._sole_write
                return {write: output} if write is not None and isinstance(output, Tensor) else self._named(output)
            return self._named(self._call(model, named_inputs))
        with torch.no_grad():
            return self._named(self._call(model, named_inputs))

    def summarize(self, reset: bool) -> dict[str, Any]:
        """Return what the module's own `summarize(reset)` returns, if it has one, by name under the brick's prefix."""
        model: Any = self.model
        if not isinstance(model, HasSummary):
            return {}
        return {join(prefix_of(self.path), name): value for name, value in model.summarize(reset).items()}

    def freeze(self) -> None:
        """Freeze the parameters and the statistics of normalisation layers, also in training mode."""
        self.trainable = False
        if self.module is not None:
            self.module.requires_grad_(False).eval()

    def unfreeze(self) -> None:
        """Make every parameter of the module trainable."""
        self.trainable = True
        if self.module is not None:
            self.module.requires_grad_(True).train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.trainable and self.module is not None:
            self.module.eval()
        return self


class BrickTrainable(BrickModule):
    """A module that is trained; layers that are frozen already stay frozen."""

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#6D597A"}

    def __init__(
        self,
        model: nn.Module,
        input_names: InputNames,
        output_names: Sequence[str],
        loss_output_names: Sequence[str] | Literal["all", "none"] = "none",
        tags: Tags = Tag.MODEL,
        group: Tags | None = None,
    ) -> None:
        super().__init__(model, input_names, output_names, tags, loss_output_names, group=group)

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._names_and_tags(), "loss_output_names": self._declared_losses}


class BrickNotTrainable(BrickModule):
    """A frozen module: neither parameters nor statistics of normalisation layers change, also in training mode.

    Gradients pass through it to the bricks before it, unless `calculate_gradients` is False.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#B56576"}

    def __init__(
        self,
        model: nn.Module | Callable[..., Any],
        input_names: InputNames,
        output_names: Sequence[str],
        tags: Tags = Tag.MODEL,
        calculate_gradients: bool = True,
        group: Tags | None = None,
    ) -> None:
        super().__init__(
            model,
            input_names,
            output_names,
            tags,
            calculate_gradients=calculate_gradients,
            trainable=False,
            group=group,
        )

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._names_and_tags(), "calculate_gradients": self.calculate_gradients}


class BrickLoss(BrickModule):
    """A loss: all outputs are summed, or those in `loss_output_names`."""

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#5C677D"}

    def __init__(
        self,
        model: nn.Module | Callable[..., Any],
        input_names: InputNames,
        output_names: Sequence[str],
        loss_output_names: Sequence[str] | Literal["all", "none"] = "all",
        tags: Tags = Tag.LOSS,
        group: Tags | None = None,
    ) -> None:
        super().__init__(model, input_names, output_names, tags, loss_output_names, group=group)

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._names_and_tags(), "loss_output_names": self._declared_losses}

    @property
    def formula(self) -> str:
        """What is minimized: the `extra_repr` of the module, or its name if it has none."""
        return (self.module.extra_repr() if self.module is not None else "") or self.module_name

    @property
    def _description(self) -> str:
        return self.module_name if self.formula == self.module_name else f"{self.module_name}({self.formula})"


def _loss_indices(names: Sequence[str] | Literal["all", "none"], outputs: list[str]) -> list[int]:
    if names == "all":
        return list(range(len(outputs)))
    wanted = [] if names == "none" else list(names)
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise BrickGraphError(
            f"One or more loss_output_names are not outputs: expected some of {outputs}, found {unknown}."
        )
    return [outputs.index(name) for name in wanted]
