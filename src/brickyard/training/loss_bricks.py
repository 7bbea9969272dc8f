"""The losses of a collection where labels may be missing: in a batch, in a row, on one process of several."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick, Tags
from brickyard.core.names import prefix_of
from brickyard.data.label_kinds import KIND_RULES, LABELLED, TARGETS, LabelKind
from brickyard.recipe.inspection import heads_of
from brickyard.tasks.registry import get_task


@final
class LossBricks:
    """The bricks of a collection that compute losses.

    Args:
        collection: The collection.

    Attributes:
        names: The outputs of all of these bricks, sub-losses included.
        base: The paths of those that read labels; the others read losses of these, as a weighted sum does.
        outer: The losses that are summed: no other of these bricks reads them.
    """

    def __init__(self, collection: BrickCollection) -> None:
        self.collection = collection
        self.bricks = {path: brick for path, brick in collection.bricks().items() if brick.loss_names}
        losses = {name for brick in self.bricks.values() for name in brick.loss_names}
        self.base = [
            path for path, brick in self.bricks.items() if losses.isdisjoint(read.name for read in brick.reads)
        ]
        read = {read.name for brick in self.bricks.values() for read in brick.reads}
        self.outer = [name for brick in self.bricks.values() for name in brick.loss_names if name not in read]
        self.names = [name for brick in self.bricks.values() for name in brick.writes]

    def running(self, named_inputs: Collection[str], tags: Tags) -> set[str]:
        """Return the paths of those that run on these inputs."""
        return {step.path for step in self.collection.plan(tags, given=named_inputs).steps if step.path in self.bricks}

    def counts(self, named_inputs: Mapping[str, Any], running: set[str]) -> Tensor:
        """Count the items that each loss of `base` averages over, 0 where it does not run.

        What is counted depends on the kind of the label that a loss reads, see `KIND_RULES`: the known pixels of a
        mask, the known points, else the labelled rows. A loss that reads no label of its head's task counts rows.

        Args:
            named_inputs: The batch.
            running: What `running` returned.

        Returns:
            (len(base),) float32.

        Raises:
            UnknownNameError: The task of a head is not registered.
            BrickInputError: The task declares no kind for its label.
        """
        image = next(value for value in named_inputs.values() if isinstance(value, Tensor))
        counts = [
            _count(self.bricks[path], named_inputs, image, label_kinds(self.collection, prefix_of(path)))
            if path in running
            else image.new_zeros((), dtype=torch.float)
            for path in self.base
        ]
        return torch.stack(counts) if counts else torch.zeros(0)

    @contextmanager
    def scaled(self, scales: Tensor | None) -> Iterator[None]:
        """Multiply the losses of `base` by scales (len(base),) in this context, also for the bricks that read them."""
        with ExitStack() as stack:
            for path, scale in zip(self.base, () if scales is None else scales, strict=scales is not None):
                stack.enter_context(_scaling(self.bricks[path], scale))
            yield

    def weighted(self, values: Mapping[str, Any], weights: Tensor, whole: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each output of the bricks with its weight in a mean, 0 where the brick did not run.

        Args:
            values: What a call of the collection returned.
            weights: (len(base),), the weights of the losses of `base`.
            whole: (), the weight of the others.
        """
        by_path = dict(zip(self.base, weights, strict=True))
        return {
            name: (values.get(name, torch.zeros_like(whole)), by_path.get(path, whole))
            for path, brick in self.bricks.items()
            for name in brick.writes
        }

    def absent(self, values: Mapping[str, Any], running: set[str]) -> list[Tensor]:
        """Return a zero with a graph for each loss that did not run, so every process has gradients for every head."""
        zeros = []
        for path in self.bricks.keys() - running:
            brick = self.bricks[path]
            read = [values[read.name] for read in brick.reads if isinstance(values.get(read.name), Tensor)]
            module = brick.module
            tensors = [*read, *(() if module is None else module.parameters())]
            # The sum of no elements, not 0 times the sum: that would be nan if a value is not finite.
            zeros += [tensor.flatten()[:0].sum().float() for tensor in tensors if tensor.requires_grad]
        return zeros


def label_kinds(collection: BrickCollection, head: str) -> dict[str, LabelKind]:
    """Return the kinds of the labels of a head by the names of their values, none if no task built the head.

    Args:
        collection: The collection.
        head: The prefix of the head, "seg".

    Raises:
        UnknownNameError: The task of the head is not registered.
        BrickInputError: The task declares no kind for a label.
    """
    info = heads_of(collection.bricks()).get(head)
    return {} if info is None else get_task(info.task).kinds(head, info.variant)


def _count(brick: Brick, named_inputs: Mapping[str, Any], image: Tensor, kinds: Mapping[str, LabelKind]) -> Tensor:
    rows = torch.ones(len(image), dtype=torch.bool, device=image.device)
    for read in brick.reads:
        if read.name.startswith(LABELLED) and isinstance(named_inputs.get(read.name), Tensor):
            rows = named_inputs[read.name]
    for read in brick.reads:
        if read.name.startswith(TARGETS) and read.name in named_inputs and read.name in kinds:
            return KIND_RULES[kinds[read.name]].count(named_inputs[read.name], rows).float()
    return rows.sum().float()


@contextmanager
def _scaling(brick: Brick, scale: Tensor) -> Iterator[None]:
    def hook(_brick: Any, _inputs: Any, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value * scale for name, value in outputs.items()}

    handle = brick.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
