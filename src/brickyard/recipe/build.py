"""Build the bricks that a recipe describes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.core.backbone import BrickBackbone
from brickyard.core.brick import Brick
from brickyard.core.graph import flatten, set_paths
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec, HeadInfo
from brickyard.core.tags import Tag
from brickyard.errors import BrickError, BrickGraphError, BrickInputError, BrickMismatchError, UnknownNameError
from brickyard.parts.backbones import timm_spec, timm_tags
from brickyard.parts.registry import create_part
from brickyard.recipe.recipe import HeadRecipe, Recipe
from brickyard.tasks.head_arguments import check_reads
from brickyard.tasks.registry import get_task
from brickyard.tasks.task import HeadSpec, Task

_MAX_CLASSES = 1_000_000  # a larger number is a mistake, and would fill the memory before an error


def build(recipe: Recipe) -> dict[str, Brick]:
    """Build the bricks of a model, with fresh weights.

    Together they read `image`, (B, C, H, W) float in [0, 1] or uint8, and write `normalized`, `features`, `embedding`
    and the outputs that each task documents.

    Returns:
        The bricks by path, for `BrickCollection.of_new`.

    Raises:
        UnknownNameError: No such backbone, task or head.
        BrickInputError: The number of labels is not the number of classes, `loss_weights` names no head, or the
            backbone does not take an option.
    """
    tag = recipe.weights if recipe.weights in timm_tags(recipe.backbone) else None
    name = f"{recipe.backbone}.{tag}" if tag else recipe.backbone
    try:
        model = create_part("timm", name=name, in_chans=recipe.in_chans, **recipe.options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if isinstance(error, BrickError) or not recipe.options:  # the second is a fault of timm, not of the caller
            raise
        expected = "options that `timm.create_model` takes"
        raise BrickInputError(f"backbone '{name}'", expected, f"{dict(recipe.options)}: {error}") from error
    spec = timm_spec(model, recipe.in_chans, **recipe.options)
    backbone = BrickBackbone(
        model,
        input_names=["normalized"],
        output_names=["features", "embedding", *spec.block_outputs],
        fixed_size=spec.input.size if spec.input.fixed else None,
    )
    return _assemble(backbone, spec, recipe)


def build_around(backbone: nn.Module, spec: BackboneSpec, recipe: Recipe) -> dict[str, Brick]:
    """Build the bricks of a model around a backbone that is not timm's, with fresh weights for the heads.

    Args:
        backbone: Takes the normalised image, (B, C, H, W), and returns the feature maps, fine to coarse, and the
            embedding, (B, E).
        spec: What the backbone provides.
        recipe: The heads, and how their losses are added.

    Raises:
        BrickMismatchError: The backbone returns something else than `spec` declares.
        Other errors as for `build`.
    """
    problems = _output_problems(backbone, spec)
    if problems:
        raise BrickMismatchError(
            f"The backbone {type(backbone).__name__} does not provide what its spec says", problems
        )
    brick = BrickTrainable(backbone, input_names=["normalized"], output_names=["features", "embedding"])
    return _assemble(brick, spec, recipe)


def _assemble(backbone: Brick, spec: BackboneSpec, recipe: Recipe) -> dict[str, Brick]:
    backbone.provides = spec
    tree = {
        "preprocessor": BrickNotTrainable(
            create_part("normalize", mean=list(spec.input.mean), std=list(spec.input.std)),
            input_names=["image"],
            output_names=["normalized"],
        ),
        "backbone": backbone,
        **{head.name: head_bricks(spec, head) for head in recipe.heads},
        **loss_sum(recipe),
    }
    return set_paths(flatten(tree))


def _output_problems(backbone: nn.Module, spec: BackboneSpec) -> list[str]:
    """List what a backbone returns otherwise than declared, for one black image of the declared size."""
    height, width = spec.input.size
    parameter = next(backbone.parameters(), torch.empty(0))
    image = torch.zeros(1, spec.input.channels, height, width, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():
        outputs = copy.deepcopy(backbone).eval()(image)  # a copy, whose modes and buffers may change
    if not isinstance(outputs, (tuple, list)) or len(outputs) != 2 or not isinstance(outputs[0], (tuple, list)):
        return [f"expected (feature maps, embedding), found {_shapes(outputs)}"]
    if spec.block_outputs:
        return [f"block_outputs: only those of a timm backbone can be provided, found {list(spec.block_outputs)}"]
    features, embedding = outputs
    sides = [(-(-height // stride), -(-width // stride)) for stride in spec.features.strides]
    expected = [(1, count, *side) for count, side in zip(spec.features.channels, sides, strict=True)]
    problems = []
    if [tuple(map_.shape) for map_ in features] != expected:
        problems.append(f"feature maps of a {height}x{width} image: expected {expected}, found {_shapes(features)}")
    if tuple(embedding.shape) != (1, spec.embedding):
        problems.append(f"embedding: expected {(1, spec.embedding)}, found {tuple(embedding.shape)}")
    return problems


def _shapes(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_shapes(item) for item in value]
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def head_bricks(backbone: BackboneSpec, head: HeadRecipe) -> dict[str, Any]:
    """Build one head with fresh weights.

    Returns:
        The bricks by name. If the task declares the types of its labels, the first one, "metadata", checks them.

    Raises:
        UnknownNameError: No such task, or no such head of it.
        BrickInputError: The number of labels is not the number of classes, or the task has no key points.
        BrickGraphError: The task builds no brick named "head".
        BrickMismatchError: The head reads a feature map that the backbone does not have.
    """
    task = get_task(head.task)
    variant = head.variant or task.variants[0]
    if variant not in task.variants:
        raise UnknownNameError(f"head of task '{task.name}'", variant, task.variants)
    num_classes = head.num_classes
    if num_classes is None:
        num_classes = len(head.labels) if head.labels else task.default_num_classes(backbone)
    if not 1 <= num_classes <= _MAX_CLASSES:
        raise BrickInputError(f"num_classes of '{head.name}'", f"1 to {_MAX_CLASSES}", f"{num_classes}")
    if head.labels and len(head.labels) != num_classes:
        raise BrickInputError(f"labels of '{head.name}'", f"{num_classes} names", f"{len(head.labels)}")
    spec = HeadSpec(head.name, variant, num_classes, head.labels, head.keypoints)
    bricks = task.bricks(backbone, spec)
    if "head" not in bricks:
        raise BrickGraphError(f"The task '{task.name}' builds no brick named 'head', only {list(bricks)}.")
    if bricks["head"].head is None:
        bricks["head"].head = HeadInfo(task.name, variant, tuple(spec.class_names))
    if head.keypoints is not None and bricks["head"].head.keypoints is None:
        hint = "They are an argument for heads of the task 'pose'."
        raise BrickInputError(f"keypoints of '{head.name}'", "none", f"{len(head.keypoints.names)}", hint)
    for path, brick in flatten(bricks, head.name).items():
        check_reads(backbone, brick.at_path(path).reads, f"Brick '{path}'")
    return {**_label_check(task, head.name), **bricks}


def loss_sum(recipe: Recipe) -> dict[str, Any]:
    """Build the brick that adds the heads' losses, if the recipe has weights; heads without labels are left out.

    Raises:
        BrickInputError: The weights are neither "learned" nor numbers for some of the heads.
    """
    weights = recipe.loss_weights
    if weights is None:
        return {}
    heads = [head.name for head in recipe.heads]
    if isinstance(weights, str):
        if weights != "learned":
            expected = f"'learned', or some of the heads {heads} with a number each"
            raise BrickInputError("loss_weights", expected, repr(weights))
        part = create_part("uncertainty_weighting", count=len(heads))
    else:
        if not set(weights) <= set(heads):
            raise BrickInputError("loss_weights", f"some of the heads {heads}", f"{list(weights)}")
        part = create_part("weighted_sum", weights=[float(weights.get(head, 1.0)) for head in heads])
    return {"loss": BrickLoss(part, input_names=[f"{head}/loss?" for head in heads], output_names=["loss"])}


def _label_check(task: Task, head: str) -> Mapping[str, Brick]:
    """Build the brick that refuses labels of another type than the task's `Metadata` declares."""
    typed = {name: label for name, label in task.labels(head).items() if label.types is not None}
    if not typed:
        return {}
    part = create_part("check_labels", kinds={name: list(label.types or ()) for name, label in typed.items()})
    brick = BrickNotTrainable(
        part,
        input_names=[label.value for label in typed.values()],
        output_names=["./metadata"],
        tags={Tag.LOSS, Tag.METRIC, Tag.METRIC_INFERENCE},
    )
    return {"metadata": brick}
