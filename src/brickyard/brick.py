"""Bricks: modules that say by name what they read and what they write.

A brick takes the dictionary of all named values and returns a dictionary with what it makes. The kinds stand in
`modules.py`, `metrics.py` and `visualization.py`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import nn

from brickyard.errors import BrickGraphError, MissingInputError
from brickyard.names import ALL, parse_reference, resolve
from brickyard.private_names import has_hooks
from brickyard.storage.origin import Origin

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

    Attributes:
        path: Where it stands in its collection, "" while it is in none.
        reads: The parsed names that it reads.
        writes: The names that it writes.
        tags: When it runs.
        metadata: What else is to be known of it and travels with it (class names, licence, ...); JSON values.
        origin: Where its stored form is, None if it never had one.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px"}  # of its box in the mermaid graph

    def __init__(
        self, input_names: InputNames, output_names: Sequence[str], tags: Tags, group: Tags | None = None
    ) -> None:
        super().__init__()
        if isinstance(input_names, str) or isinstance(output_names, str):
            raise TypeError(f"Expected lists of names, found {input_names!r} and {output_names!r}.")
        self.path = ""  # in its collection; "" while it is in none
        self.tags = as_tags(tags if group is None else group)
        self.metadata: dict[str, Any] = {}
        self.origin: Origin | None = None
        self._tags_spelling = "tags" if group is None else "groups"
        self._declared_inputs, self._declared_outputs = copy.copy(input_names), list(output_names)
        self._wire()

    @property
    def input_names(self) -> list[str] | dict[str, str]:
        """The names that it reads: a list (by position) or {argument: name}."""
        if self._arguments is None:
            return list(self._read_names)
        return dict(zip(self._arguments, self._read_names, strict=True))

    @input_names.setter
    def input_names(self, names: InputNames) -> None:
        self._declared_inputs = copy.copy(names)
        self._wire()

    @property
    def output_names(self) -> list[str]:
        """The names that it writes, by position."""
        return list(self.writes)

    @output_names.setter
    def output_names(self, names: Sequence[str]) -> None:
        self._declared_outputs = list(names)
        self._wire()

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, all but what the brick wraps, with the names as they were declared; JSON."""

    @property
    @abstractmethod
    def wrapped(self) -> Any:
        """What the constructor was given to wrap."""

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

    def __call__(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        """Run the brick, with torch's hooks where there are any.

        `nn.Module.__call__` costs as much as a small module does, and a collection pays it for each brick; so it is
        left out where it has nothing to do.
        """
        if has_hooks(self):
            named_outputs: dict[str, Any] = super().__call__(named_inputs)
            return named_outputs
        return self.forward(named_inputs)

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
        twin.place(path)
        return twin

    def place(self, path: str) -> None:
        """Stand at `path` of a collection from now on: relative names become absolute."""
        self.path = path
        self._wire()

    def _names_and_tags(self) -> dict[str, Any]:
        inputs = self._declared_inputs
        names = dict(inputs) if isinstance(inputs, Mapping) else list(inputs)
        return {"input_names": names, "output_names": list(self._declared_outputs), "tags": sorted(self.tags)}

    def _wire(self) -> None:
        """Parse the declared names, for the place the brick has now."""
        inputs = self._declared_inputs
        names = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        self._arguments = tuple(inputs) if isinstance(inputs, Mapping) else None
        self._read_names = tuple(resolve(name, self.path) for name in names)
        self.reads = tuple(parse_reference(name, self.path) for name in self._read_names)
        self.required = tuple(read.name for read in self.reads if not read.optional and read.name != ALL)
        self.writes = tuple(resolve(name, self.path) for name in self._declared_outputs)
        for name in self.writes:
            if not parse_reference(name, self.path).is_plain:
                raise BrickGraphError(f"Brick '{self.path}' cannot write '{name}': expected a name and nothing else.")
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
            keys = {name: name.rpartition("/")[2] for name in names}  # no walrus: torch.compile cannot trace it here
            by_key = {name: outputs[key] for name, key in keys.items() if key in outputs}
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


BrickInterface = Brick  # its name in TorchBricks


def as_tags(tags: Tags) -> frozenset[str]:
    """One tag or several, as a set."""
    return frozenset({tags} if isinstance(tags, str) else tags)
