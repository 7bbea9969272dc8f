"""Batches of samples: for training in an order that can be resumed anywhere, for evaluation without duplicates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from functools import partial
from itertools import accumulate, count
from math import ceil
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from brickyard.data.collate import collate
from brickyard.data.dataset import LabelledDataset
from brickyard.data.label_kinds import LabelKind
from brickyard.data.mixed import MixedData, mixed
from brickyard.errors import BrickError, BrickInputError, MissingExtraError

Batches = DataLoader[Mapping[str, Any]]


@final
class Draw(NamedTuple):
    """A sample of a training run.

    Attributes:
        position: Its position in the run, counted over all processes.
        item: Its index in the data set.
    """

    position: int
    item: int


@final
class TrainingOrder(Sampler[list[Draw]]):
    """The batches of a whole training run: all samples in a random order, then again in another.

    The order depends on the arguments alone, so a resumed run continues with the batch that comes next. The samples of
    a step are divided among the processes: two processes with half the batch size see the same samples as one. Those of
    a `MixedData` alternate by the shares of its data sets, each of which is repeated when its samples are used up.

    Args:
        data: The data set, of which the number of samples is read.
        batch_size: Samples per step and process.
        steps: Batches in the run.
        seed: The seed of the order; not negative.
        rank: The rank of this process, in [0, world_size).
        world_size: The number of processes.

    Raises:
        BrickInputError: The data set is empty.
    """

    def __init__(
        self, data: Sized, batch_size: int, steps: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(data) < 1:
            raise BrickInputError("training data", "one image or more", "none")
        self.batch_size, self.steps, self.seed = batch_size, steps, seed
        self.rank, self.world_size = rank, world_size
        self._lengths: tuple[int, ...] = (len(data),)
        self._shares: tuple[float, ...] = (1.0,)
        if isinstance(data, MixedData):
            self._lengths, self._shares = data.lengths, data.shares

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        starts = (0, *accumulate(self._lengths))
        samples = [
            self._shuffled(number, start, length)
            for number, (start, length) in enumerate(zip(starts, self._lengths, strict=False))
        ]
        numbers = mixed(self._shares)
        whole = self.batch_size * self.world_size  # the samples of a step on all processes
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for step in range(self.steps):
            positions = range(step * whole, (step + 1) * whole)
            yield [Draw(position, next(samples[next(numbers)])) for position in positions][own]

    def _shuffled(self, number: int, start: int, length: int) -> Iterator[int]:
        """Yield the indices of a data set without end: all in a random order, then again in another."""
        for epoch in count():
            seed = (self.seed, epoch, number) if number else (self.seed, epoch)
            for index in np.random.default_rng(seed).permutation(length):
                yield start + int(index)


@final
class SeededDataset(Dataset[Mapping[str, Any]]):
    """A data set whose random transforms depend on the draw alone: not on workers, processes or interruptions.

    Args:
        data: A data set whose items may draw from torch's global generator, as torchvision's transforms do.
        seed: The seed of the transforms; not negative.
    """

    def __init__(self, data: LabelledDataset, seed: int) -> None:
        self.data, self.seed = data, seed

    def __getitem__(self, draw: Draw) -> Mapping[str, Any]:
        seed = np.random.SeedSequence((self.seed, draw.position)).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))  # `torch.manual_seed` looks for devices: 30 times as long
            return self.data[draw.item]


@final
class ErrorsAsItems(Dataset[Mapping[str, Any]]):
    """A data set that returns its errors as items where a worker process reads it.

    torch raises an error of a worker as another type whose message is a traceback. So `collate_or_error` passes the
    error on to the main process, and `checked` raises it unchanged.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.data[index]
        except BrickError as error:
            if get_worker_info() is None:
                raise
            return error


def collate_or_error(samples: Sequence[Any], kinds: Mapping[str, LabelKind]) -> Any:
    """Collate the samples, or return the first error among them."""
    return next((sample for sample in samples if isinstance(sample, BrickError)), None) or collate(samples, kinds)


def checked(batch: Any) -> Any:
    """Return a batch unchanged, or raise it if it is an error."""
    if isinstance(batch, BrickError):
        raise batch
    return batch


def to_device(value: Any, device: torch.device | str) -> Any:
    """Return a value of a batch with its tensors on a device, also those in dictionaries and lists."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: to_device(entry, device) for name, entry in value.items()}
    return [to_device(entry, device) for entry in value] if isinstance(value, list) else value


def training_batches(data: LabelledDataset, order: TrainingOrder, *, workers: int = 0) -> Batches:
    """Make a loader whose state can be saved and restored, also in the middle of an epoch.

    Args:
        data: The data set.
        order: The order of its samples; its seed is also that of their random transforms.
        workers: The number of processes that read samples, 0 to read them in this one.

    Raises:
        MissingExtraError: The extra `train` is not installed.
    """
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("Training that can be resumed", "train") from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)  # torchdata 0.11 calls it
        loader: Batches = StatefulDataLoader(
            ErrorsAsItems(SeededDataset(data, order.seed)),
            batch_sampler=order,
            collate_fn=partial(collate_or_error, kinds=data.kinds),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )
    return loader


def evaluation_batches(
    data: LabelledDataset, batch_size: int, *, workers: int = 0, rank: int = 0, world_size: int = 1
) -> Batches:
    """Make a loader of every sample once; several processes get disjoint samples in the same number of batches.

    Args:
        data: The data set.
        batch_size: Samples per batch, approximately.
        workers: The number of processes that read samples, 0 to read them in this one.
        rank: The rank of this process, in [0, world_size).
        world_size: The number of processes.

    Raises:
        BrickInputError: There are fewer samples than processes.
    """
    fewest = len(data) // world_size
    if not fewest:
        raise BrickInputError("evaluation data", f"an image for each of {world_size} processes", f"{len(data)}")
    # As many batches as the process with the fewest samples has: with one more, a process would wait for the others.
    indices = np.array_split(np.arange(rank, len(data), world_size), ceil(fewest / batch_size))
    return DataLoader(
        ErrorsAsItems(data),
        batch_sampler=[batch.tolist() for batch in indices],
        collate_fn=partial(collate_or_error, kinds=data.kinds),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # a validation draws nothing from the generator that a training draws from
    )
