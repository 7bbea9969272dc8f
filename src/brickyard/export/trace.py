"""Trace bricks for an exporter: a copy in evaluation mode, an example batch and its dynamic dimensions."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.collection import BrickCollection
from brickyard.core.brick import Tags
from brickyard.core.tags import Stage
from brickyard.errors import BrickInputError

AXES = {"batch": 0, "height": 2, "width": 3}  # dimensions of images (B, C, H, W)


@final
class Traceable(nn.Module):
    """A collection as a module from a dictionary of tensors to a tuple of tensors.

    Args:
        collection: A copy in evaluation mode with only the selected bricks.
        names: The names of the outputs, in order. Items of a tuple or list, such as feature maps, are named with an
            index: `features.0`.
    """

    def __init__(self, collection: BrickCollection, names: Sequence[str]) -> None:
        super().__init__()
        self.collection = collection
        self.names = list(names)

    def forward(self, named_inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        outputs = flatten_outputs(self.collection(named_inputs, return_inputs=False))
        return tuple(outputs[name] for name in self.names)


@final
@dataclass(frozen=True)
class Trace:
    """The arguments of an exporter.

    Attributes:
        module: The selected bricks.
        example: An example batch, tensors or tuples of tensors by name.
        dynamic: The `torch.export.Dim` of each dynamic dimension, in the structure of `example`; None if all are fixed.
    """

    module: Traceable
    example: dict[str, Any]
    dynamic: dict[str, Any] | None

    @property
    def input_names(self) -> list[str]:
        """The names of the tensors of `example`, see `flatten_outputs`."""
        return list(flatten_outputs(self.example))

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the bricks on another batch and return the outputs by name."""
        with torch.no_grad():
            return dict(zip(self.module.names, self.module(dict(batch)), strict=True))


def trace(
    collection: BrickCollection,
    named_inputs: Mapping[str, Any],
    dynamic: Mapping[str, Mapping[int, str]],
    *,
    tags: Tags | None = None,
    outputs: Iterable[str] | None = None,
) -> Trace:
    """Copy bricks for an exporter and run them once on an example batch.

    Args:
        collection: The collection; its mode and statistics are not changed.
        named_inputs: An example batch, tensors or tuples or lists of tensors; values that the bricks do not read are
            ignored.
        dynamic: The name of each dynamic dimension, by input name and dimension. Dimensions of the same name are equal.
        tags: The tags of the bricks to export, by default those of `Stage.EXPORT`.
        outputs: The names of the outputs; bricks that they do not need are left out. None for all outputs.

    Raises:
        MissingInputError: The example batch lacks an input.
        BrickInputError: An input or output is neither a tensor nor a tuple or list of tensors.
    """
    tags = Stage.EXPORT.tags if tags is None else tags
    names = None if outputs is None else list(outputs)
    selected = copy.deepcopy(collection.sub_collection(tags=tags, outputs=names)).cpu().eval()
    example = {
        name: _map_tensors(Tensor.cpu, named_inputs[name], name)
        for name in selected.required_inputs()
        if name in named_inputs
    }
    if any(0 in dimensions for dimensions in dynamic.values()):
        # torch.export specialises a dynamic dimension whose example size is 1.
        example = {name: _map_tensors(_at_least_two, value, name) for name, value in example.items()}
    with torch.no_grad():
        values = flatten_outputs(selected(example, return_inputs=False))
    kept = [name for name in values if names is None or name in names or name.rpartition(".")[0] in names]
    others = [name for name in kept if not isinstance(values[name], Tensor)]
    if others:
        hint = "Exclude their bricks with `tags` or `outputs`."
        raise BrickInputError("outputs to export", "tensors", f"other values: {others}", hint)
    dims = {name: torch.export.Dim(name) for dimensions in dynamic.values() for name in dimensions.values()}

    def dims_of(name: str, value: Any) -> Any:
        named = {axis: dims[dim] for axis, dim in dynamic.get(name, {}).items()}
        return _map_tensors(lambda _: named, value, name)

    dynamic_dims = {name: dims_of(name, value) for name, value in example.items()} if dims else None
    return Trace(Traceable(selected, kept).eval(), example, dynamic_dims)


def _map_tensors(function: Callable[[Tensor], Any], value: Any, name: str) -> Any:
    """Apply a function to a tensor, or to each tensor of a tuple or list; the result is a tuple then."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)) and all(isinstance(item, Tensor) for item in value):
        return tuple(map(function, value))
    raise BrickInputError(f"the input '{name}'", "a tensor, or a tuple or list of tensors", type(value).__name__)


def _at_least_two(value: Tensor) -> Tensor:
    return torch.cat([value, value]) if len(value) == 1 else value


@contextmanager
def ignored_warnings(*packages: str) -> Iterator[None]:
    """Hide warnings of exporters on their own internals: those attributed to modules of these packages.

    Args:
        *packages: The names of the packages; warnings of all other modules are shown.
    """
    with warnings.catch_warnings():
        for package in packages:
            warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        yield


def flatten_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each tuple or list, such as feature maps, by its items with indexed names.

    Example:
        >>> flatten_outputs({"features": (1, 2), "logits": 3})
        {'features.0': 1, 'features.1': 2, 'logits': 3}
    """
    flattened: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            flattened |= {f"{name}.{index}": item for index, item in enumerate(value)}
        else:
            flattened[name] = value
    return flattened
