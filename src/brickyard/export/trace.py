"""What exporters take: an evaluation copy of some bricks, an example batch, and which sizes may vary."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.brick import Tags
from brickyard.collection import BrickCollection
from brickyard.errors import BrickInputError
from brickyard.tags import Stage

AXES = {"batch": 0, "height": 2, "width": 3}  # of an image (B, C, H, W)


@final
class Traceable(nn.Module):
    """Bricks as a function from a dictionary of tensors to a tuple of tensors.

    Args:
        collection: An evaluation copy with the bricks that are wanted.
        names: Its outputs, in order. A tuple or list, such as feature maps, counts under names with an index:
            `features.0`.
    """

    def __init__(self, collection: BrickCollection, names: Sequence[str]) -> None:
        super().__init__()
        self.collection = collection
        self.names = list(names)

    def forward(self, named_inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        outputs = flat(self.collection(named_inputs, return_inputs=False))
        return tuple(outputs[name] for name in self.names)


@final
@dataclass(frozen=True)
class Trace:
    """Everything that an exporter is given.

    Attributes:
        module: The bricks.
        example: A batch by name.
        sizes: For each input, the dimensions that may vary; None where all are fixed.
    """

    module: Traceable
    example: dict[str, Tensor]
    sizes: dict[str, dict[int, Any]] | None

    def named(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the bricks on another batch."""
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
    """Prepare bricks for an exporter; the collection stays as it is, statistics and mode included.

    Args:
        collection: Where the bricks are.
        named_inputs: An example batch; what the bricks do not read is left out.
        dynamic: For each input, the dimensions that may vary with the name of each size.
        tags: Which bricks, by default those of `Stage.EXPORT`.
        outputs: Only what these values need, and only these are returned; None for all.

    Raises:
        MissingInputError: The example lacks an input.
        BrickInputError: An output is no tensor, or the example does not run.
    """
    tags = Stage.EXPORT.tags if tags is None else tags
    names = None if outputs is None else list(outputs)
    selected = copy.deepcopy(collection.sub_collection(tags=tags, outputs=names)).cpu().eval()
    example = {name: named_inputs[name].cpu() for name in selected.required_inputs() if name in named_inputs}
    if any(0 in sizes for sizes in dynamic.values()):
        # Of a size of one, torch.export would make a constant.
        example = {name: torch.cat([value, value]) if len(value) == 1 else value for name, value in example.items()}
    with torch.no_grad():
        found = flat(selected(example, return_inputs=False))
    kept = [name for name in found if names is None or name in names or name.rpartition(".")[0] in names]
    others = [name for name in kept if not isinstance(found[name], Tensor)]
    if others:
        raise BrickInputError("outputs to export", "tensors", f"{others}", "Leave their bricks out by tags or outputs.")
    sizes = {name: {axis: torch.export.Dim(size) for axis, size in dynamic.get(name, {}).items()} for name in example}
    shared = _shared(sizes)
    return Trace(Traceable(selected, kept).eval(), example, shared if any(shared.values()) else None)


@contextmanager
def ignored_warnings(*packages: str) -> Iterator[None]:
    """Within it, warnings that are attributed to modules of these packages are not shown; those of others are."""
    with warnings.catch_warnings():
        for package in packages:
            warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        yield


def flat(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs with each tuple or list, such as feature maps, under names with an index: `features.0`."""
    flattened: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            flattened |= {f"{name}.{index}": item for index, item in enumerate(value)}
        else:
            flattened[name] = value
    return flattened


def _shared(sizes: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    """One size of each name, so that inputs of one batch vary together."""
    known: dict[str, Any] = {}
    return {name: {a: known.setdefault(d.__name__, d) for a, d in axes.items()} for name, axes in sizes.items()}
