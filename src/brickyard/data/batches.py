"""Which pictures come when: batches for training that can be resumed anywhere, and for evaluation without repeats."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from brickyard.data.collate import collate
from brickyard.data.dataset import LabelledDataset
from brickyard.errors import BrickError, BrickInputError, MissingExtraError

Batches = DataLoader[Mapping[str, Any]]


@final
class Draw(NamedTuple):
    """A picture of a training run: its place in the run, counted over all processes, and its index in the data set."""

    place: int
    picture: int


@final
class TrainingOrder(Sampler[list[Draw]]):
    """The batches of a whole training run: all pictures in a random order, then again in another.

    The order depends on the arguments alone, so a resumed run goes on with the batch that it would have had. Of each
    step's pictures a process takes its share: two processes with half the batch size see what one sees.

    Args:
        pictures: How many the data set has.
        batch_size: Pictures a step and process.
        steps: Batches in the run.
        seed: Another one is another order; not negative.
        rank: Of this process, in [0, world_size).
        world_size: How many processes there are.

    Raises:
        BrickInputError: The data set is empty.
    """

    def __init__(
        self, pictures: int, batch_size: int, steps: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if pictures < 1:
            raise BrickInputError("training data", "one picture or more", "none")
        self.pictures, self.batch_size, self.steps, self.seed = pictures, batch_size, steps, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.steps):
            start = (step * self.world_size + self.rank) * self.batch_size
            batch = []
            for place in range(start, start + self.batch_size):
                turn, within = divmod(place, self.pictures)
                if turn != current:
                    current, order = turn, np.random.default_rng((self.seed, turn)).permutation(self.pictures)
                batch.append(Draw(place, int(order[within])))
            yield batch


@final
class Drawn(Dataset[Mapping[str, Any]]):
    """A data set whose random changes depend on the draw alone: not on workers, processes or interruptions.

    Args:
        data: Its items may draw from torch's global generator, as torchvision's transforms do.
        seed: Another one makes other changes; not negative.
    """

    def __init__(self, data: LabelledDataset, seed: int) -> None:
        self.data, self.seed = data, seed

    def __getitem__(self, draw: Draw) -> Mapping[str, Any]:
        seed = np.random.SeedSequence((self.seed, draw.place)).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))  # `torch.manual_seed` looks for devices: 30 times as long
            return self.data[draw.picture]


@final
class Told(Dataset[Mapping[str, Any]]):
    """A data set whose errors come as items where it is read by another process.

    torch raises them anew here, as another kind with a page of text; so `collated` hands the error on, and
    `checked` raises it as it was.
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


def collated(samples: Sequence[Any]) -> Any:
    """The batch of `collate`, or the first error among the samples."""
    return next((sample for sample in samples if isinstance(sample, BrickError)), None) or collate(samples)


def checked(batch: Any) -> Any:
    """The same batch; what is an error is raised."""
    if isinstance(batch, BrickError):
        raise batch
    return batch


def training_batches(data: LabelledDataset, order: TrainingOrder, *, workers: int = 0) -> Batches:
    """A loader that remembers where it is, also in the middle of an epoch.

    Args:
        data: The pictures.
        order: Which of them come when; its seed is also that of their random changes.
        workers: Processes that read pictures, 0 to read them in this one.

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
            Told(Drawn(data, order.seed)),
            batch_sampler=order,
            collate_fn=collated,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )
    return loader


def evaluation_batches(
    data: LabelledDataset, batch_size: int, *, workers: int = 0, rank: int = 0, world_size: int = 1
) -> Batches:
    """Every picture once. Of several processes each has its own, none twice, in equally many batches.

    Args:
        data: The pictures.
        batch_size: Pictures at a time, about.
        workers: Processes that read pictures, 0 to read them in this one.
        rank: Of this process, in [0, world_size).
        world_size: How many processes there are.

    Raises:
        BrickInputError: There are fewer pictures than processes.
    """
    least = len(data) // world_size
    if not least:
        raise BrickInputError("evaluation data", f"a picture for each of {world_size} processes", f"{len(data)}")
    # As many batches as the process with the fewest pictures has: one that runs on alone would wait for the others.
    own = np.array_split(np.arange(rank, len(data), world_size), ceil(least / batch_size))
    return DataLoader(
        Told(data),
        batch_sampler=[indices.tolist() for indices in own],
        collate_fn=collated,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
