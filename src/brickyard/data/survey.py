"""Read a data set as a whole: its problems, and the counts of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from tqdm import tqdm

from brickyard.data.checking import num_samples
from brickyard.data.collate import collate
from brickyard.data.dataset import CheckableDataset, LabelledDataset, keypoints_of
from brickyard.data.label_checks import LabelContext
from brickyard.data.label_counts import LabelCounts, Quantiles, quantiles_of
from brickyard.data.label_kinds import KIND_RULES, TARGETS, LabelKind
from brickyard.data.reading import damage_as_input_error
from brickyard.data.transforms import Augment
from brickyard.errors import BrickInputError

_WITHOUT_CLASSES = (LabelKind.POINTS, LabelKind.DENSE_MAP, LabelKind.ID, LabelKind.METADATA)


@final
@dataclass(frozen=True)
class Survey:
    """What is in a data set.

    Attributes:
        good: The indices of the samples that can be used.
        problems: The first problem of each other sample, by its index.
        num_small: The number of objects that are too small for a box.
        counts: The counts of each label, by its name.
        image_sizes: The distributions of width and height.
    """

    good: Sequence[int]
    problems: Mapping[int, BrickInputError]
    num_small: int
    counts: Mapping[str, LabelCounts]
    image_sizes: Sequence[Quantiles]


def class_names(data: LabelledDataset, label: str) -> tuple[str, ...]:
    """Return the classes of a label, () if its kind has none.

    Those of a part, such as `anomaly/mask`, are the classes of its head.
    """
    if data.kinds[label] in _WITHOUT_CLASSES:
        return ()
    return tuple(data.labels.get(label) or data.labels.get(label.partition("/")[0]) or ())


def survey(data: LabelledDataset, name: str, *, length: int | None = None, progress: bool = False) -> Survey:
    """Read and check every sample, images included, as a training would, and count its labels.

    Args:
        data: The data set as it is stored, without transforms.
        name: Its name, for problems.
        length: The number of samples to read, the first ones; None for all.
        progress: Whether to show a progress bar.

    Raises:
        BrickInputError: There are fewer samples than `length`, or none.
    """
    count = num_samples(data, length, name)
    names = {label: class_names(data, label) for label in data.kinds}
    points = {label: spec.names for label, spec in keypoints_of(data).items()}
    counts = {label: LabelCounts(kind, names[label], points.get(label, ())) for label, kind in data.kinds.items()}
    good, problems, num_small = [], {}, 0
    sizes: list[tuple[int, int]] = []
    for index in tqdm(range(count), f"Reading {name}", disable=not progress, leave=False):
        try:
            small = data.check(index) if isinstance(data, CheckableDataset) else 0
            with damage_as_input_error(f"{name}, image {index}", "an image and its labels", ""):
                sample = _checked(data, index, names, points)
        except BrickInputError as error:
            problems[index] = error
            continue
        good.append(index)
        num_small += small
        sizes.append((int(sample["image"].shape[-2]), int(sample["image"].shape[-1])))
        for label, each in counts.items():
            each.add(sample.get(f"{TARGETS}{label}"), sizes[-1])
    heights, widths = np.array(sizes, dtype=np.int64).reshape(-1, 2).T
    image_sizes = [quantiles_of("image width in pixels", widths), quantiles_of("image height in pixels", heights)]
    return Survey(good, problems, num_small, counts, image_sizes)


def _checked(
    data: LabelledDataset, index: int, names: Mapping[str, tuple[str, ...]], points: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """Read a sample and check its labels as those of a training batch are."""
    stored = data[index]
    size = (int(stored["image"].shape[-2]), int(stored["image"].shape[-1]))
    sample = Augment(size, data.kinds, train=False)(stored)  # changes no size, but clamps boxes as in a training
    for value, label in collate([sample], data.kinds).items():
        if value.startswith(TARGETS):
            name = value.removeprefix(TARGETS)
            location = f"image {index}, '{value}'"
            num_points = len(points[name]) if name in points else None
            num_classes = None if data.kinds[name] in _WITHOUT_CLASSES else len(names[name])
            context = LabelContext(location, 1, size, num_classes, None, num_points)
            KIND_RULES[data.kinds[name]].check(label, context)
    return sample
