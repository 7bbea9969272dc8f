"""The base class of bricks: modules with named inputs and outputs.

A brick takes the dictionary of all named values and returns a dictionary of its outputs. The kinds of bricks are in
`modules.py`, `backbone.py`, `metrics.py` and `visualization.py`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from torch import nn

from brickyard.core.names import ALL, Reference, parse_reference, resolve
from brickyard.core.private_names import has_hooks
from brickyard.core.provenance import Provenance
from brickyard.core.specs import BackboneSpec, HeadInfo
from brickyard.errors import BrickGraphError, MissingInputError

InputNames = Sequence[str] | Mapping[str, str]
Tags = str | Iterable[str]


class Brick(nn.Module, ABC):
    """A node of a collection's graph.

    Args:
        input_names: The values that the brick reads: a list is passed by position, a dictionary {argument: name} by
            keyword. `__all__` passes every value so far as one dictionary; `features[-1]` and `features[1:3]` index a
            list or tuple; `mask?` is None if the value is absent.
        output_names: The values that the brick writes, by position.
        tags: One tag or several that select the brick in a call, see `Tag`.
        group: `tags` in the spelling of TorchBricks 0.3.

    Names that start with `./` or `../` are relative to the brick's path. A collection makes them absolute, in a copy of
    the brick that shares its module; to change the names of a brick in a collection, set the brick again.

    Attributes:
        path: The path in the collection, "" outside of a collection.
        reads: The parsed input names.
        writes: The output names.
        tags: The tags.
        head: What the brick predicts, if it is the head of a task.
        provides: What the brick provides to heads, if it is a backbone.
        metadata: Further information that is stored with the brick (licence, metrics, ...); JSON values.
        provenance: Where the brick was loaded from or last stored, None if it never was.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px"}  # of its box in the mermaid graph

    def __init__(
        self, input_names: InputNames, output_names: Sequence[str], tags: Tags, group: Tags | None = None
    ) -> None:
        super().__init__()
        if isinstance(input_names, str) or isinstance(output_names, str):
            raise TypeError(f"Expected lists of names, found {input_names!r} and {output_names!r}.")
        self.path = ""
        self.tags = as_tags(tags if group is None else group)
        self.head: HeadInfo | None = None
        self.provides: BackboneSpec | None = None
        self.metadata: dict[str, Any] = {}
        self.provenance: Provenance | None = None
        self._tags_spelling = "tags" if group is None else "groups"
        self._declared_inputs, self._declared_outputs = copy.copy(input_names), list(output_names)
        self._wire()

    @property
    def input_names(self) -> list[str] | dict[str, str]:
        """The names of the inputs: a list (by position) or a dictionary {argument: name}."""
        if self._arguments is None:
            return list(self._read_names)
        return dict(zip(self._arguments, self._read_names, strict=True))

    @input_names.setter
    def input_names(self, names: InputNames) -> None:
        self._declared_inputs = copy.copy(names)
        self._wire()

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, by position."""
        return list(self.writes)

    @output_names.setter
    def output_names(self, names: Sequence[str]) -> None:
        self._declared_outputs = list(names)
        self._wire()

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments without the wrapped object, with the names as declared; JSON values."""

    @property
    @abstractmethod
    def wrapped(self) -> Any:
        """The object that the brick wraps: a module, a metric collection or a function."""

    @property
    @abstractmethod
    def module(self) -> nn.Module | None:
        """The module whose state is the brick's weights, if there is one."""

    @property
    @abstractmethod
    def module_name(self) -> str:
        """The name of the wrapped object, for printing and drawing."""

    @property
    def _description(self) -> str:
        """The wrapped object in the representation of the brick."""
        return self.module_name

    @abstractmethod
    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        """Read the inputs from the named values and return the outputs by name."""

    def __call__(self, named_inputs: dict[str, Any], *requests: tuple[Reference, ...]) -> dict[str, Any]:
        """Run the brick, with its hooks if it has any.

        `nn.Module.__call__` costs as much as a small module, once per brick and call, so it is skipped for bricks
        without hooks.

        Args:
            named_inputs: The values by name.
            *requests: For bricks with outputs `on_request`, the reads of these, as one argument.
        """
        if has_hooks(self):
            named_outputs: dict[str, Any] = super().__call__(named_inputs, *requests)
            return named_outputs
        return self.forward(named_inputs, *requests)

    @property
    def on_request(self) -> tuple[str, ...]:
        """The outputs that are computed only if a brick reads them, or the caller names them."""
        return ()

    @property
    def loss_names(self) -> list[str]:
        """The outputs that `BrickCollection.extract_losses` returns."""
        return []

    def summarize(self, reset: bool) -> dict[str, Any]:
        """Compute the metrics over the calls since the last reset, by name; empty for bricks without metrics."""
        return {}

    def at_path(self, path: str) -> Self:
        """Return a copy for `path` in a collection, which shares the module."""
        twin = copy.copy(self)
        for key, value in vars(self).items():  # the copy gets registries, hooks and metadata of its own
            if isinstance(value, dict):
                vars(twin)[key] = value.copy()
        twin.set_path(path)
        return twin

    def set_path(self, path: str) -> None:
        """Set the path in a collection, which makes relative names absolute."""
        self.path = path
        self._wire()

    def _names_and_tags(self) -> dict[str, Any]:
        inputs = self._declared_inputs
        names = dict(inputs) if isinstance(inputs, Mapping) else list(inputs)
        return {"input_names": names, "output_names": list(self._declared_outputs), "tags": sorted(self.tags)}

    def _wire(self) -> None:
        """Parse the declared names, relative to the current path."""
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
        """Call `function` with the brick's inputs."""
        missing = [(name, self.path) for name in self.required if name not in named_inputs]
        if missing:
            raise MissingInputError(missing, named_inputs)
        values = [read.read(named_inputs, self.path) for read in self.reads]
        if self._arguments is None:
            return function(*values)
        return function(**dict(zip(self._arguments, values, strict=True)))

    def _named(self, outputs: Any) -> dict[str, Any]:
        """Return the module's outputs by name: a tuple or list by position, a dictionary by key, else one value.

        If the brick has one output name, a list, or a dictionary without that key, is that one value.
        """
        names = self.writes
        if isinstance(outputs, dict) and names:
            keys = {
                name: name.rpartition("/")[2] for name in names
            }  # torch.compile cannot trace a walrus in a comprehension
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
            f"{type(self).__name__}({self._description}, input_names={self.input_names}, "
            f"output_names={self.output_names}, {self._tags_spelling}={tags})"
        )


class HasBricks(Protocol):
    """Anything that has bricks by path, such as a `BrickCollection`."""

    def bricks(self) -> dict[str, Brick]: ...


BrickInterface = Brick  # the name in TorchBricks


def as_tags(tags: Tags) -> frozenset[str]:
    """Return one tag or several as a set."""
    return frozenset({tags} if isinstance(tags, str) else tags)
