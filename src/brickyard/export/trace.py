"""Trace bricks for an exporter: a copy in evaluation mode, an example batch and its dynamic dimensions."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        example: An example batch, tensors by name.
        dynamic: The `torch.export.Dim` of each dynamic dimension, by input name and dimension; None if all are fixed.
    """

    module: Traceable
    example: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]] | None

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the bricks on another batch and return the outputs by name."""
        with torch.no_grad():
            return dict(zip(self.module.names, self.module(dict(batch)), strict=True))


def trace(
    collection: BrickCollection,
    named_inputs: Mapping[str, Tensor],
    dynamic: Mapping[str, Mapping[int, str]],
    *,
    tags: Tags | None = None,
    outputs: Iterable[str] | None = None,
) -> Trace:
    """Copy bricks for an exporter and run them once on an example batch.

    Args:
        collection: The collection; its mode and statistics are not changed.
        named_inputs: An example batch; values that the bricks do not read are ignored.
        dynamic: The name of each dynamic dimension, by input name and dimension. Dimensions of the same name are equal.
        tags: The tags of the bricks to export, by default those of `Stage.EXPORT`.
        outputs: The names of the outputs; bricks that they do not need are left out. None for all outputs.

    Raises:
        MissingInputError: The example batch lacks an input.
        BrickInputError: An output is not a tensor.
    """
    tags = Stage.EXPORT.tags if tags is None else tags
    names = None if outputs is None else list(outputs)
    selected = copy.deepcopy(collection.sub_collection(tags=tags, outputs=names)).cpu().eval()
    example = {name: named_inputs[name].cpu() for name in selected.required_inputs() if name in named_inputs}
    if any(0 in dimensions for dimensions in dynamic.values()):
        # torch.export specialises a dynamic dimension whose example size is 1.
        example = {name: torch.cat([value, value]) if len(value) == 1 else value for name, value in example.items()}
    with torch.no_grad():
        values = flatten_outputs(selected(example, return_inputs=False))
    kept = [name for name in values if names is None or name in names or name.rpartition(".")[0] in names]
    others = [name for name in kept if not isinstance(values[name], Tensor)]
    if others:
        hint = "Exclude their bricks with `tags` or `outputs`."
        raise BrickInputError("outputs to export", "tensors", f"other values: {others}", hint)
    dims = {name: torch.export.Dim(name) for dimensions in dynamic.values() for name in dimensions.values()}
    dynamic_dims = {name: {axis: dims[dim] for axis, dim in dynamic.get(name, {}).items()} for name in example}
    return Trace(Traceable(selected, kept).eval(), example, dynamic_dims if any(dynamic_dims.values()) else None)


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
