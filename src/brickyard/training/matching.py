"""Check that a model and a data set have the same labels, and create a model for a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from brickyard.catalog import model_info
from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.names import prefix_of
from brickyard.core.specs import HeadInfo, ResizeMode
from brickyard.create import create_model
from brickyard.data.checking import WithoutMasks
from brickyard.data.dataset import LabelledDataset, keypoints_of
from brickyard.data.label_kinds import TARGETS, LabelKind
from brickyard.data.mixed import MixedData
from brickyard.data.one_label import OneLabel
from brickyard.data.transforms import Augmented, Transformed
from brickyard.errors import BrickInputError, BrickMismatchError
from brickyard.parts.instances.targets import PadInstances
from brickyard.parts.losses import CrossEntropy
from brickyard.parts.segmentation import SegmentationLoss
from brickyard.recipe.inspection import heads_of
from brickyard.tasks.registry import get_task

_WHAT = "The data does not fit the model"


def create_model_for(
    data: LabelledDataset,
    name: str,
    *,
    pretrained: bool = False,
    bricks: Mapping[str, str] | None = None,
    seed: int = 0,
) -> BrickCollection:
    """Create a model with heads for the classes and key points of a data set.

    Args:
        data: The training data. A head gets the classes of the labels of the same name, if they have classes.
        name: See `create_model`.
        pretrained: See `create_model`.
        bricks: See `create_model`.
        seed: Seed of the randomly initialized weights; the global random state is not changed.

    Raises:
        BrickMismatchError: The data has no labels for the heads of the model, or labels of another kind.
        The exceptions of `create_model`.
    """
    heads = model_info(name).tasks
    labels = {head: names for head, names in data.labels.items() if head in heads and names}
    keypoints = {  # those of an image are the classes of its head
        head: points
        for head, points in keypoints_of(data).items()
        if head in heads and data.kinds.get(head) is LabelKind.INSTANCE_POINTS
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(name, pretrained=pretrained, labels=labels, keypoints=keypoints, bricks=bricks)
    check_labels(model, data)
    return model


def check_labels(model: BrickCollection, data: LabelledDataset) -> None:
    """Check that data has labels for the heads of a model, of the same classes and of the kinds that the tasks read.

    Raises:
        BrickMismatchError: The data has labels for none of the heads, or labels of other classes or of another kind.
    """
    heads, shared, problems = _compare(model, data)
    for head in shared:
        problems += _kind_problems(head, heads[head], data)
    if problems:
        raise BrickMismatchError(_WHAT, problems)


def check_classes(model: BrickCollection, data: LabelledDataset, what: str) -> None:
    """Check that data has the classes of the heads of a model. No image is read.

    Args:
        model: The model.
        data: The data set.
        what: How an error names the data, e.g. "validation data".

    Raises:
        BrickMismatchError: The data has labels for none of the heads, or labels of other classes.
    """
    if problems := _compare(model, data)[2]:
        raise BrickMismatchError(f"{what}: {_WHAT}", problems)


def unlabelled_heads(model: BrickCollection, data: LabelledDataset, *, allow: bool) -> list[str]:
    """Return the heads that data has no labels for.

    Args:
        model: The model.
        data: The training data.
        allow: Whether heads that would be trained may be without labels.

    Raises:
        BrickMismatchError: A head with trainable parameters has no labels, and `allow` is False.
    """
    heads = [head for head in heads_of(model.bricks()) if head not in data.labels]
    trained = [head for head in heads if any(parameter.requires_grad for parameter in model[head].parameters())]
    if trained and not allow:
        hint = "Leave the head out of the model, freeze it, or allow it (--allow-unlabelled, allow_unlabelled=True)."
        labels = f"expected labels, found labels for {list(data.labels)} only. {hint}"
        raise BrickMismatchError("training data", [f"head '{head}': {labels}" for head in trained])
    return heads


def without_unread_masks(data: LabelledDataset, model: BrickCollection) -> LabelledDataset:
    """Return data without the masks of instances that no brick of a model reads: to transform them takes long."""
    if isinstance(data, MixedData):
        return data.map(lambda part: without_unread_masks(part, model))
    read = {value.name for brick in model.bricks().values() if _reads_masks(brick) for value in brick.reads}
    with_masks = (LabelKind.INSTANCE_MASKS, LabelKind.INSTANCE_POINTS)
    unread = [name for name, kind in data.kinds.items() if kind in with_masks and TARGETS + name not in read]
    if not unread:
        return data
    if isinstance(data, Augmented):
        return Augmented(WithoutMasks(data.data, unread), data.augment)
    return WithoutMasks(data, unread)


def transformed(data: LabelledDataset, transform: Callable[[dict[str, Any]], Mapping[str, Any]]) -> LabelledDataset:
    """Return data whose samples a transform changes, see `Transformed`; those of a `MixedData` one by one."""
    if isinstance(data, MixedData):
        return data.map(lambda part: Transformed(part, transform))
    return Transformed(data, transform)


def _reads_masks(brick: Brick) -> bool:
    """Whether a brick that reads a label may read masks in it."""
    return not isinstance(brick.wrapped, PadInstances) or "masks" in brick.wrapped.entries


def describe_training(model: BrickCollection, data: LabelledDataset) -> None:
    """Store in the heads of a model that they are trained on data, the size of its images and how they are resized.

    A head without labels in the data is marked as not trained, unless it has trained weights.
    """
    height, width = data[0]["image"].shape[-2:]
    for path, brick in model.bricks().items():
        if brick.head is None:
            continue
        if prefix_of(path) in data.labels:
            size = (int(height), int(width))
            resize_mode = _resize_mode(data, prefix_of(path))
            brick.head = replace(brick.head, image_size=size, resize_mode=resize_mode, trained=True)
        elif brick.head.trained is None and brick.provenance is None:
            brick.head = replace(brick.head, trained=False)


def _resize_mode(data: LabelledDataset, label: str) -> ResizeMode | None:
    """Return how the images with a label were resized, None for images that the data set has in their size."""
    if isinstance(data, MixedData):
        data = data.with_label(label)
    if isinstance(data, OneLabel):
        data = data.data
    return data.augment.resize_mode if isinstance(data, Augmented) else None


def smooth_labels(model: BrickCollection, amount: float) -> None:
    """Set the label smoothing of each cross-entropy of a model, which is stored with it.

    Raises:
        BrickInputError: The model has no cross-entropy.
    """
    wrapped = [brick.wrapped for brick in model.bricks().values()]
    losses = [loss for loss in wrapped if isinstance(loss, (CrossEntropy, SegmentationLoss))]
    if amount and not losses:
        raise BrickInputError("label_smoothing", "a head with a cross-entropy, cls or seg", "none")
    for loss in losses:
        loss.label_smoothing = amount


def _compare(model: BrickCollection, data: LabelledDataset) -> tuple[dict[str, HeadInfo], list[str], list[str]]:
    """Return what each head predicts, the heads that the data has labels for, and their differences in classes."""
    heads = heads_of(model.bricks())
    shared = [head for head in heads if head in data.labels]
    if not shared:
        raise BrickMismatchError(_WHAT, [f"expected labels for some of {list(heads)}, found {list(data.labels)}"])
    problems = []
    for head in shared:
        expected, found = list(heads[head].labels), list(data.labels[head])
        if found and expected != found:  # a label without classes, such as a depth, has none to compare
            problems.append(f"head '{head}': expected the {len(expected)} classes {expected}, found {found}")
        problems += _keypoint_problems(head, heads[head], data)
    return heads, shared, problems


def _keypoint_problems(head: str, info: HeadInfo, data: LabelledDataset) -> Iterator[str]:
    """Compare the names of the key points of each object, if the data declares them, with those of the head."""
    declared = keypoints_of(data).get(head)
    if declared is None or info.keypoints is None:
        return
    expected, found = list(info.keypoints.names), list(declared.names)
    if expected != found:
        yield f"head '{head}': expected the {len(expected)} key points {expected}, found {found}"


def _kind_problems(head: str, info: HeadInfo, data: LabelledDataset) -> Iterator[str]:
    """Compare the kind of the data's label with the one that the head's task reads."""
    task = get_task(info.task)
    expected, found = task.kinds(head, info.variant).get(f"{TARGETS}{head}"), data.kinds.get(head)
    if expected is None or found is None or expected == found:
        return
    others = [variant for variant in task.variants if task.kinds(head, variant).get(f"{TARGETS}{head}") == found]
    hint = f": use '{task.name}-{others[0]}'" if others else ""
    yield f"head '{head}': expected labels of the kind '{expected.value}', found '{found.value}'{hint}"
