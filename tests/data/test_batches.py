import warnings
from itertools import chain
from typing import ClassVar

import pytest
import torch

from brickyard import BrickInputError, LabelKind
from brickyard.data.batches import Draw, SeededDataset, TrainingOrder, checked, evaluation_batches, training_batches


class Numbers:
    """Images that are their index, with a random number."""

    labels: ClassVar[dict[str, tuple[str, ...]]] = {}
    kinds: ClassVar[dict[str, LabelKind]] = {}

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        return {"image": torch.tensor(index), "drawn": torch.rand(())}


def indices(order: TrainingOrder) -> list[int]:
    return [draw.item for batch in order for draw in batch]


def test_every_sample_comes_once_before_any_comes_again() -> None:
    order = indices(TrainingOrder(range(5), 2, 10))
    rounds = [order[start : start + 5] for start in range(0, 20, 5)]
    assert [sorted(one) for one in rounds] == [[0, 1, 2, 3, 4]] * 4
    assert len({tuple(one) for one in rounds}) > 1


def test_the_order_depends_on_the_seed_alone() -> None:
    assert indices(TrainingOrder(range(50), 4, 20, seed=1)) == indices(TrainingOrder(range(50), 4, 20, seed=1))
    assert indices(TrainingOrder(range(50), 4, 20, seed=1)) != indices(TrainingOrder(range(50), 4, 20, seed=2))


def test_processes_divide_the_samples_of_a_step() -> None:
    whole = list(TrainingOrder(range(7), 6, 4))
    parts = [list(TrainingOrder(range(7), 2, 4, rank=rank, world_size=3)) for rank in range(3)]
    assert [[*chain.from_iterable(part[step] for part in parts)] for step in range(4)] == whole


def test_there_are_as_many_batches_as_steps_also_of_a_single_image() -> None:
    assert len(TrainingOrder(range(1), 3, 5)) == 5
    assert indices(TrainingOrder(range(1), 3, 2)) == [0] * 6
    with pytest.raises(BrickInputError, match="one image or more"):
        TrainingOrder(range(0), 3, 5)


def test_random_changes_depend_on_the_draw_and_leave_the_global_generator_alone() -> None:
    data = SeededDataset(Numbers(9), seed=3)
    state = torch.get_rng_state()
    first, again, later = data[Draw(0, 4)], data[Draw(0, 4)], data[Draw(9, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first["drawn"] != later["drawn"]
    assert SeededDataset(Numbers(9), seed=4)[Draw(0, 4)]["drawn"] != first["drawn"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_from_its_state(workers: int) -> None:
    def loader():
        return training_batches(Numbers(7), TrainingOrder(range(7), 2, 6), workers=workers)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        expected = [(batch["image"].tolist(), batch["drawn"].tolist()) for batch in loader()]
        first = loader()
        iterator = iter(first)
        for _ in range(3):
            next(iterator)
        second = loader()
        second.load_state_dict(first.state_dict())
        assert [(batch["image"].tolist(), batch["drawn"].tolist()) for batch in second] == expected[3:]
    assert expected == [
        (batch["image"].tolist(), batch["drawn"].tolist())
        for batch in training_batches(Numbers(7), TrainingOrder(range(7), 2, 6))
    ]


@pytest.mark.parametrize(
    ("length", "batch_size", "world_size"), [(5, 2, 2), (8, 3, 2), (3, 1, 2), (10, 4, 1), (7, 2, 3)]
)
def test_evaluation_has_every_sample_once_in_equally_many_batches(
    length: int, batch_size: int, world_size: int
) -> None:
    shares = [
        [
            batch["image"].tolist()
            for batch in evaluation_batches(Numbers(length), batch_size, rank=rank, world_size=world_size)
        ]
        for rank in range(world_size)
    ]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(length))
    assert len({len(share) for share in shares}) == 1
    assert max(len(batch) for share in shares for batch in share) <= batch_size + 1


def test_evaluation_of_one_process_keeps_the_order_and_the_batch_size() -> None:
    batches = [batch["image"].tolist() for batch in evaluation_batches(Numbers(7), 3)]
    assert list(chain.from_iterable(batches)) == list(range(7))
    assert max(map(len, batches)) <= 3


def test_evaluation_needs_an_image_for_each_process() -> None:
    with pytest.raises(BrickInputError, match="an image for each of 2 processes, found 1"):
        evaluation_batches(Numbers(1), 2, world_size=2)
    with pytest.raises(BrickInputError, match="an image for each of 1 processes, found 0"):
        evaluation_batches(Numbers(0), 2)


class Damaged:
    labels: ClassVar[dict[str, tuple[str, ...]]] = {}
    kinds: ClassVar[dict[str, LabelKind]] = {}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        raise BrickInputError(f"{index}.jpg", "an image", "nothing")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_the_same_whichever_process_reads(workers: int) -> None:
    batches = iter(evaluation_batches(Damaged(), 2, workers=workers))
    with pytest.raises(BrickInputError, match=r"^0\.jpg: expected an image, found nothing\.$"):
        checked(next(batches))
