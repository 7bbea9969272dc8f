"""Several data sets as one, with labels for different heads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import isfinite
from typing import Any, final

from torch.utils.data import Dataset

from brickyard.core.specs import KeypointSpec
from brickyard.data.dataset import LabelledDataset, keypoints_of
from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError, BrickMismatchError


@final
class MixedData(Dataset[Mapping[str, Any]]):
    """Several data sets as one: the samples of the first, then those of the second, and so on.

    A sample has the labels of its own data set. Where a batch has samples of several, `collate` marks the rows that
    lack a label, and losses and metrics leave them out: gradients are those of a training on all images together, with
    each head trained on the images that have its label. `OneLabel` gives a label the name of a head.

    Args:
        datasets: The data sets, all with images of one size. A label that several have must be of one kind and have the
            same classes and key points.
        ratio: How many samples a training draws from each data set, relative to the others, such as (2, 1); None draws
            as many as each has, so that every sample is seen equally often. An evaluation reads each sample once.

    Attributes:
        lengths: The number of samples of each data set.
        shares: The fraction of the samples of a training that each data set has; the sum is 1.

    Raises:
        BrickInputError: There is no data set, or one has no sample; `ratio` has another length or a number that is not
            positive.
        BrickMismatchError: Data sets differ in a label that they have in common.
    """

    def __init__(self, datasets: Sequence[LabelledDataset], ratio: Sequence[float] | None = None) -> None:
        self.datasets = tuple(datasets)
        self.lengths = tuple(len(data) for data in self.datasets)
        if not self.lengths or 0 in self.lengths:
            expected = "one data set or more, each with a sample"
            raise BrickInputError("MixedData", expected, f"data sets of {list(self.lengths)} samples")
        weights = self.lengths if ratio is None else tuple(ratio)
        if len(weights) != len(self.lengths) or not all(isfinite(weight) and weight > 0 for weight in weights):
            expected = f"a positive number for each of the {len(self.lengths)} data sets"
            raise BrickInputError("MixedData, ratio", expected, f"{list(weights)}")
        self.shares = tuple(weight / sum(weights) for weight in weights)
        self.labels: dict[str, tuple[str, ...]] = {}
        self.kinds: dict[str, LabelKind] = {}
        self.keypoints: dict[str, KeypointSpec] = {}
        for number, data in enumerate(self.datasets):
            _add(self.labels, data.labels, "labels", number)
            _add(self.kinds, data.kinds, "kinds", number)
            _add(self.keypoints, keypoints_of(data), "keypoints", number)
        self._ends = tuple(accumulate(self.lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        index = range(len(self))[index]  # a negative index counts from the end; IndexError beyond
        number = bisect_right(self._ends, index)
        return self.datasets[number][index - (self._ends[number] - self.lengths[number])]

    def map(self, function: Callable[[LabelledDataset], LabelledDataset]) -> MixedData:
        """Return the mixture of what a function makes of each data set, with the same shares."""
        return MixedData([function(data) for data in self.datasets], self.shares)

    def with_label(self, name: str) -> LabelledDataset:
        """Return the first data set that has a label.

        Raises:
            KeyError: None has it.
        """
        for data in self.datasets:
            if name in data.labels:
                return data
        raise KeyError(name)


def mixed(shares: Sequence[float]) -> Iterator[int]:
    """Yield indices without end, each as often as its share, as evenly as possible: (2/3, 1/3) gives 0 1 0 0 1 0 ...

    Args:
        shares: Positive fractions, whose sum is 1.
    """
    counts, position = [0] * len(shares), 0
    while True:
        position += 1
        behind = [share * position - count for share, count in zip(shares, counts, strict=True)]
        chosen = behind.index(max(behind))
        counts[chosen] += 1
        yield chosen


def _add(known: dict[str, Any], new: Mapping[str, Any], what: str, number: int) -> None:
    """Add the labels of data set `number`, which must be those that are known where the names are the same."""
    differing = [name for name in new if name in known and known[name] != new[name]]
    if differing:
        problems = [f"{what} of '{name}': expected {known[name]}, found {new[name]}" for name in differing]
        raise BrickMismatchError(
            f"Data set {number + 1} does not fit the ones before it; `OneLabel` renames a label", problems
        )
    known |= new
