"""Bricks: modules that say by name what they read and what they write.

A brick takes the dictionary of all named values and returns a dictionary with what it makes. The kinds that are more
than a module with names stand in `metrics.py` and `visualization.py`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from brickyard.errors import BrickGraphError, MissingInputError
from brickyard.names import ALL, parse_reference, resolve
from brickyard.tags import Tag

InputNames = Sequence[str] | Mapping[str, str]
Tags = str | Iterable[str]


class Brick(nn.Module, ABC):
    """A node of a collection's graph.

    Args:
        input_names: What it reads: a list goes in by position, a dictionary {argument: name} by keyword. `__all__`
            reads every value so far as one dictionary; `features[-1]` and `features[1:3]` pick from a list or tuple;
            `mask?` is None where the value is absent.
        output_names: What it writes, by position.
        tags: When it runs: one tag or several, see `Tag`.
        group: `tags` in the spelling of TorchBricks 0.3.

    Names that start with `./` or `../` are relative to the brick's place; a collection makes them absolute, in a copy
    of the brick that shares its module. It reads the names when a brick is put in: to change them, put it in again.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px"}  # of its box in the mermaid graph

    def __init__(
        self, input_names: InputNames, output_names: Sequence[str], tags: Tags, group: Tags | None = None
    ) -> None:
        super().__init__()
        self.path = ""  # in its collection; "" while it is in none
        self.tags = as_tags(tags if group is None else group)
        self._tags_spelling = "tags" if group is None else "groups"
        self._declared_inputs, self._declared_outputs = input_names, output_names
        self._wire()

    @property
    def input_names(self) -> list[str] | dict[str, str]:
        """The names that it reads: a list (by position) or {argument: name}."""
        if self._arguments is None:
            return list(self._read_names)
        return dict(zip(self._arguments, self._read_names, strict=True))

    @input_names.setter
    def input_names(self, names: InputNames) -> None:
        self._declared_inputs = names
        self._wire()

    @property
    def output_names(self) -> list[str]:
        """The names that it writes, by position."""
        return list(self.writes)

    @output_names.setter
    def output_names(self, names: Sequence[str]) -> None:
        self._declared_outputs = names
        self._wire()

    @property
    @abstractmethod
    def module(self) -> nn.Module | None:
        """The bare module whose tensors are the brick's weights, if it has one."""

    @property
    @abstractmethod
    def module_name(self) -> str:
        """What stands for the module where the brick is printed or drawn."""

    @abstractmethod
    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        """Read from the named values and return the new ones, by name."""

    @property
    def loss_names(self) -> list[str]:
        """The outputs that are losses to be summed."""
        return []

    def summarize(self, reset: bool) -> dict[str, Any]:
        """What was gathered over the calls so far, by name; only metrics gather anything."""
        return {}

    def placed(self, path: str) -> Self:
        """A copy at `path` of a collection: names of its own, the module shared."""
        twin = copy.copy(self)
        for key, value in vars(self).items():  # or the registries and hooks of the two would be one
            if isinstance(value, dict):
                vars(twin)[key] = value.copy()
        twin.path = path
        twin._wire()
        return twin

    def _wire(self) -> None:
        """Parse the declared names, for the place the brick has now."""
        inputs = self._declared_inputs
        names = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        self._arguments = tuple(inputs) if isinstance(inputs, Mapping) else None
        self._read_names = tuple(resolve(name, self.path) for name in names)
        self.reads = tuple(parse_reference(name, self.path) for name in self._read_names)
        self.required = tuple(read.name for read in self.reads if not read.optional and read.name != ALL)
        self.writes = tuple(resolve(name, self.path) for name in self._declared_outputs)
        sole = len(names) == 1 and self._arguments is None and self.reads[0].is_plain
        self._sole_read = self.reads[0].name if sole else None
        self._sole_write = self.writes[0] if len(self.writes) == 1 else None

    def _call(self, function: Callable[..., Any], named_inputs: Mapping[str, Any]) -> Any:
        """Call `function` with what the brick reads."""
        missing = [(name, self.path) for name in self.required if name not in named_inputs]
        if missing:
            raise MissingInputError(missing, named_inputs)
        values = [read.read(named_inputs, self.path) for read in self.reads]
        if self._arguments is None:
            return function(*values)
        return function(**dict(zip(self._arguments, values, strict=True)))

    def _named(self, outputs: Any) -> dict[str, Any]:
        """Name what the module returned: a tuple or list by position, a dictionary by key, anything else whole.

        With one name, a list or a dictionary without that key is one value.
        """
        names = self.writes
        if isinstance(outputs, dict) and names:
            by_key = {name: outputs[key] for name in names if (key := name.rpartition("/")[2]) in outputs}
            if len(by_key) == len(names):
                return by_key
            if len(names) > 1:
                raise self._wrong_outputs(f"a dictionary with the keys {list(outputs)}")
            return {names[0]: outputs}
        if isinstance(outputs, tuple) or (isinstance(outputs, list) and len(names) != 1):
            if len(outputs) != len(names):
                raise self._wrong_outputs(f"{len(outputs)} values")
            return dict(zip(names, outputs, strict=True))
        if outputs is None and not names:
            return {}
        if outputs is None or len(names) != 1:
            raise self._wrong_outputs("None" if outputs is None else f"one {type(outputs).__name__}")
        return {names[0]: outputs}

    def _wrong_outputs(self, found: str) -> BrickGraphError:
        return BrickGraphError(
            f"Brick '{self.path}' ({self.module_name}) returned {found}, expected {len(self.writes)} for its "
            f"output_names {list(self.writes)}."
        )

    def __repr__(self) -> str:
        tags = "{" + ", ".join(repr(tag) for tag in sorted(self.tags)) + "}"
        return (
            f"{type(self).__name__}({self.module_name}, input_names={self.input_names}, "
            f"output_names={self.output_names}, {self._tags_spelling}={tags})"
        )


class BrickModule(Brick):
    """A module, or any callable, with names.

    Args:
        model: Called with what `input_names` name; returns one value, a tuple, a list or a dictionary.
        input_names: See `Brick`.
        output_names: See `Brick`; the keys of a returned dictionary are the last parts of these names.
        tags: See `Brick`.
        loss_output_names: The outputs that are losses: "all", "none" or a list of output names; the others are
            sub-losses, reported but not summed.
        calculate_gradients: False runs the module without autograd.
        trainable: False freezes the parameters and keeps the module in evaluation mode, so that normalisation
            statistics stand still as well. True leaves every layer as the caller has set it.
        group: See `Brick`.

    Raises:
        BrickGraphError: `loss_output_names` has a name that is no output.
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
        self.trainable = trainable
        self._loss_indices = _loss_indices(loss_output_names, list(output_names))
        if not trainable and self.module is not None:
            self.module.requires_grad_(False).eval()

    @property
    def module(self) -> nn.Module | None:
        return self.model if isinstance(self.model, nn.Module) else None

    @property
    def module_name(self) -> str:
        return self.model.__name__ if hasattr(self.model, "__name__") else type(self.model).__name__

    @property
    def loss_names(self) -> list[str]:
        return [self.writes[index] for index in self._loss_indices]

    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        try:
            model: Any = self._modules["model"]  # `self.model` is a slow look-up for a submodule, paid at every call
        except KeyError:
            model = self.model
        if self.calculate_gradients:
            # One name in and one tensor out is the common case; for a small brick, names cost as much as the module.
            if self._sole_read in named_inputs:
                output = model(named_inputs[self._sole_read])
                if self._sole_write is not None and isinstance(output, Tensor):
                    return {self._sole_write: output}
                return self._named(output)
            return self._named(self._call(model, named_inputs))
        with torch.no_grad():
            return self._named(self._call(model, named_inputs))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.trainable and self.module is not None:
            self.module.eval()
        return self


class BrickTrainable(BrickModule):
    """A module that is trained; layers that the caller froze stay frozen."""

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


class BrickNotTrainable(BrickModule):
    """A module that stands still: no parameter is trained and no statistic moves, also in `train()`.

    Gradients still pass through it to what comes before, unless `calculate_gradients` is False.
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


class BrickLoss(BrickModule):
    """A loss: every output is summed, or those that `loss_output_names` lists."""

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


def as_tags(tags: Tags) -> frozenset[str]:
    """One tag or several, as a set."""
    return frozenset({tags} if isinstance(tags, str) else tags)


def _loss_indices(names: Sequence[str] | Literal["all", "none"], outputs: list[str]) -> list[int]:
    if names == "all":
        return list(range(len(outputs)))
    wanted = [] if names == "none" else list(names)
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise BrickGraphError(f"One or more loss_output_names are no outputs: {unknown}. Expected some of {outputs}.")
    return [outputs.index(name) for name in wanted]


BrickInterface = Brick  # its name in TorchBricks
