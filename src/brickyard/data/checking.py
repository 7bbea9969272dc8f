"""Check a data set on disk as a whole, and select some of its samples."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from torch.utils.data import Dataset
from tqdm import tqdm

from brickyard.data.dataset import CheckableDataset, LabelledDataset, keypoints_of
from brickyard.data.label_kinds import TARGETS, LabelKind
from brickyard.errors import BrickInputError

_MAX_PROBLEMS = 20  # that an error lists
_MAX_LENGTH = 400  # characters of a problem
_LARGE = 2000  # samples from which a progress bar is shown

_log = logging.getLogger(__name__)


@final
class Subset(Dataset[Mapping[str, Any]]):
    """Some samples of a data set, in the given order; labels and kinds are kept."""

    def __init__(self, data: LabelledDataset, indices: Sequence[int]) -> None:
        self.data, self.indices = data, indices
        self.labels, self.kinds, self.keypoints = data.labels, data.kinds, keypoints_of(data)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.data[self.indices[index]]


@final
class WithoutMasks(Dataset[Mapping[str, Any]]):
    """A data set whose samples lack masks of instances; labels and kinds are kept.

    Args:
        data: The data set.
        names: The labels, without "targets/": those of kind instance masks are left out, of others only their masks.
    """

    def __init__(self, data: LabelledDataset, names: Iterable[str]) -> None:
        self.data, self._names = data, {TARGETS + name for name in names}
        self.labels, self.kinds, self.keypoints = data.labels, data.kinds, keypoints_of(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        sample = dict(self.data[index])
        for name in self._names & sample.keys():
            if self.kinds[name.removeprefix(TARGETS)] is LabelKind.INSTANCE_MASKS:
                del sample[name]
            else:
                sample[name] = {entry: value for entry, value in sample[name].items() if entry != "masks"}
        return sample


def checked_subset(data: LabelledDataset, length: int | None, name: str, *, skip_bad: bool) -> LabelledDataset:
    """Check the labels and the image headers of a data set, and return the samples to use.

    Args:
        data: The data set; one that is not a `CheckableDataset` is not checked.
        length: The number of samples to check and use, the first ones; None for all.
        name: The name of the data set, for errors.
        skip_bad: Whether to leave out bad samples, with a logged warning that counts them.

    Raises:
        BrickInputError: There are fewer samples than `length`, or none; or some are bad, and `skip_bad` is False. The
            error lists the first problems.
    """
    count = num_samples(data, length, name)
    problems: dict[int, BrickInputError] = {}
    num_small = 0
    for index in tqdm(range(count), f"Checking {name}", disable=None if count >= _LARGE else True, leave=False):
        try:
            num_small += data.check(index) if isinstance(data, CheckableDataset) else 0
        except BrickInputError as error:
            problems[index] = error
    if num_small:
        _log.warning("%s: %d objects have no box, because a side would be shorter than one pixel.", name, num_small)
    if not problems:
        return data if length is None else Subset(data, range(length))
    found = f"{len(problems)} bad:{_listed([*problems.values()])}"
    if not skip_bad:
        hint = "Correct them, or leave them out with --skip-bad (skip_bad=True)."
        if len(problems) == 1:
            location, expected, found_value, given = next(iter(problems.values())).args
            raise BrickInputError(location, expected, found_value, f"{given} {hint}".strip())
        raise BrickInputError(name, f"{count} images with their labels", found, f"\n{hint}")
    if len(problems) == count:
        raise BrickInputError(name, "one good sample or more", found)
    _log.warning("%s: left out %d of %d samples:%s", name, len(problems), count, _listed([*problems.values()]))
    return Subset(data, [index for index in range(count) if index not in problems])


def num_samples(data: LabelledDataset, length: int | None, name: str) -> int:
    """Return the number of samples to use, `length` or all.

    Raises:
        BrickInputError: There are fewer samples than `length`, or none.
    """
    if length is not None and not 0 <= length <= len(data):
        raise BrickInputError("length", f"0 to {len(data)}, the length of the data set", f"{length}")
    if not len(data):
        raise BrickInputError(name, "one image or more", "none")
    return len(data) if length is None else length


def _listed(problems: Sequence[BrickInputError]) -> str:
    texts = [f"\n  - {str(problem)[:_MAX_LENGTH]}" for problem in problems[:_MAX_PROBLEMS]]
    rest = len(problems) - _MAX_PROBLEMS
    return "".join(texts) + (f"\n  - ... and {rest} more" if rest > 0 else "")
