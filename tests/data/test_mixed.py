from collections import Counter
from itertools import chain
from typing import ClassVar

import pytest
import torch

from brickyard import BrickInputError, BrickMismatchError, LabelKind, MixedData, OneLabel
from brickyard.data.batches import TrainingOrder


class Shapes:
    """Images that are a number, with a class index as label `cls`."""

    kinds: ClassVar[dict[str, LabelKind]] = {"cls": LabelKind.CLASS_INDEX}

    def __init__(self, first: int, length: int, classes: tuple[str, ...] = ("a", "b")) -> None:
        self.first, self.length, self.labels = first, length, {"cls": classes}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"image": torch.tensor(self.first + index), "targets/cls": torch.tensor(index % 2)}


def two(ratio: tuple[float, ...] | None = None) -> MixedData:
    return MixedData([OneLabel(Shapes(0, 4), "cls", "left"), OneLabel(Shapes(100, 8), "cls", "right")], ratio)


def drawn(data: MixedData, batch_size: int, steps: int, **options: int) -> list[list[int]]:
    order = TrainingOrder(data, batch_size, steps, **options)
    return [[int(data[draw.item]["image"]) for draw in batch] for batch in order]


def test_samples_come_in_order_with_the_labels_of_their_data_set() -> None:
    data = two()
    assert [int(data[index]["image"]) for index in range(len(data))] == [0, 1, 2, 3, *range(100, 108)]
    assert set(data[3]) == {"image", "targets/left"}
    assert set(data[4]) == {"image", "targets/right"}
    assert int(data[-1]["image"]) == 107
    with pytest.raises(IndexError):
        data[12]
    assert data.labels == {"left": ("a", "b"), "right": ("a", "b")}


def test_each_batch_has_the_stated_ratio_of_the_data_sets() -> None:
    for batch in drawn(two((3, 1)), batch_size=4, steps=20):
        assert Counter(image < 100 for image in batch) == {True: 3, False: 1}


def test_without_a_ratio_every_sample_comes_equally_often() -> None:
    images = list(chain.from_iterable(drawn(two(), batch_size=6, steps=6)))
    assert set(Counter(images).values()) == {3}


def test_each_data_set_is_used_up_before_one_of_its_samples_comes_again() -> None:
    images = [image for image in chain.from_iterable(drawn(two((1, 1)), 2, 12)) if image < 100]
    assert [sorted(images[start : start + 4]) for start in (0, 4, 8)] == [[0, 1, 2, 3]] * 3


def test_processes_divide_the_samples_of_a_step() -> None:
    whole = drawn(two((2, 1)), 6, 9)
    parts = [drawn(two((2, 1)), 2, 9, rank=rank, world_size=3) for rank in range(3)]
    assert [[*chain.from_iterable(part[step] for part in parts)] for step in range(9)] == whole


def test_a_single_data_set_is_drawn_as_it_is_alone() -> None:
    alone = OneLabel(Shapes(0, 7), "cls", "cls")
    assert list(TrainingOrder(MixedData([alone]), 3, 8, seed=4)) == list(TrainingOrder(alone, 3, 8, seed=4))


@pytest.mark.parametrize(
    ("datasets", "ratio", "message"),
    [
        ([], None, "one data set or more"),
        ([Shapes(0, 0)], None, r"data sets of \[0\] samples"),
        ([Shapes(0, 2)], (1, 2), "a positive number for each of the 1 data sets"),
        ([Shapes(0, 2)], (0,), "a positive number"),
        ([Shapes(0, 2)], (float("nan"),), "a positive number"),
    ],
)
def test_invalid_arguments_are_told(datasets: list, ratio: tuple | None, message: str) -> None:
    with pytest.raises(BrickInputError, match=message):
        MixedData(datasets, ratio)


def test_one_label_with_different_classes_is_refused() -> None:
    with pytest.raises(BrickMismatchError, match=r"labels of 'cls': expected .*'b'.*, found .*'c'"):
        MixedData([Shapes(0, 2), Shapes(0, 2, ("a", "c"))])
