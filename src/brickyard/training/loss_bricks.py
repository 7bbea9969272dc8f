"""The losses of a collection where labels may be missing: in a batch, in a row, on one process of several."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick, Tags
from brickyard.parts.segmentation import IGNORED

_LABELLED = "labelled/"


@final
class LossBricks:
    """What a training step needs to know of the bricks that make losses.

    Args:
        collection: Where they are.

    Attributes:
        names: The outputs of all of them, sub-losses included.
        own: The paths of those that read labels; the others read losses of these, as a weighted sum does.
        outer: The losses that are summed: no other of these bricks reads them.
    """

    def __init__(self, collection: BrickCollection) -> None:
        self.collection = collection
        self.bricks = {path: brick for path, brick in collection.bricks().items() if brick.loss_names}
        losses = {name for brick in self.bricks.values() for name in brick.loss_names}
        self.own = [path for path, brick in self.bricks.items() if losses.isdisjoint(read.name for read in brick.reads)]
        read = {read.name for brick in self.bricks.values() for read in brick.reads}
        self.outer = [name for brick in self.bricks.values() for name in brick.loss_names if name not in read]
        self.names = [name for brick in self.bricks.values() for name in brick.writes]

    def running(self, named_inputs: Collection[str], tags: Tags) -> set[str]:
        """The paths of those that run on these inputs."""
        return {step.path for step in self.collection.plan(tags, given=named_inputs).steps if step.path in self.bricks}

    def counts(self, named_inputs: Mapping[str, Any], running: set[str]) -> Tensor:
        """What each loss of `own` is a mean over: labelled rows, or known pixels of a mask; 0 where it does not run.

        Args:
            named_inputs: The batch.
            running: What `running` returned.

        Returns:
            (len(own),) float32.
        """
        image = next(value for value in named_inputs.values() if isinstance(value, Tensor))
        counts = [
            _count(self.bricks[path], named_inputs, image)
            if path in running
            else image.new_zeros((), dtype=torch.float)
            for path in self.own
        ]
        return torch.stack(counts) if counts else torch.zeros(0)

    @contextmanager
    def scaled(self, scales: Tensor | None) -> Iterator[None]:
        """Within it, the losses of `own` come multiplied by scales (len(own),), also to bricks that read them."""
        with ExitStack() as stack:
            for path, scale in zip(self.own, () if scales is None else scales, strict=scales is not None):
                stack.enter_context(_scaling(self.bricks[path], scale))
            yield

    def weighted(self, values: Mapping[str, Any], weights: Tensor, whole: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Each output of the bricks with its weight in a mean, 0 where it did not run.

        Args:
            values: What a call returned.
            weights: (len(own),) for the losses of `own`.
            whole: A scalar for the others.
        """
        own = dict(zip(self.own, weights, strict=True))
        return {
            name: (values.get(name, torch.zeros_like(whole)), own.get(path, whole))
            for path, brick in self.bricks.items()
            for name in brick.writes
        }

    def absent(self, values: Mapping[str, Any], running: set[str]) -> list[Tensor]:
        """A zero for each loss that did not run, with a graph: so every process has gradients for every head."""
        zeros = []
        for path in self.bricks.keys() - running:
            brick = self.bricks[path]
            read = [values[read.name] for read in brick.reads if isinstance(values.get(read.name), Tensor)]
            module = brick.module
            tensors = [*read, *(() if module is None else module.parameters())]
            # The sum of nothing, not 0 times the sum: that would be nan for a value that is not finite.
            zeros += [tensor.flatten()[:0].sum().float() for tensor in tensors if tensor.requires_grad]
        return zeros


def _count(brick: Brick, named_inputs: Mapping[str, Any], image: Tensor) -> Tensor:
    rows = torch.ones(len(image), dtype=torch.bool, device=image.device)
    masks = []
    for read in brick.reads:
        value = named_inputs.get(read.name)
        if isinstance(value, Tensor) and read.name.startswith(_LABELLED):
            rows = value
        elif isinstance(value, Tensor) and value.ndim == 3 and value.dtype == torch.int64:
            masks.append(value)
    if not masks:
        return rows.sum().float()
    return ((masks[0] != IGNORED) & rows[:, None, None]).sum().float()


@contextmanager
def _scaling(brick: Brick, scale: Tensor) -> Iterator[None]:
    def hook(_brick: Any, _inputs: Any, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value * scale for name, value in outputs.items()}

    handle = brick.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
