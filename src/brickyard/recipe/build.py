"""From a recipe to a collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import prod
from typing import Any

from brickyard.collection import BrickCollection
from brickyard.core.backbone import BrickBackbone
from brickyard.core.modules import BrickLoss, BrickNotTrainable
from brickyard.core.names import prefix_of
from brickyard.core.tags import Tag
from brickyard.errors import BrickGraphError, BrickInputError, UnknownNameError
from brickyard.parts.backbones import BackboneSpec, InputSpec, timm_spec, timm_tags
from brickyard.parts.registry import create_part, part_of
from brickyard.recipe.names import HeadRecipe, Recipe
from brickyard.tasks.head_arguments import check_reads
from brickyard.tasks.registry import get_task
from brickyard.tasks.task import HeadSpec, Task

_MOST_CLASSES = 1_000_000  # more would fill the memory before anybody could say so


def build(recipe: Recipe) -> BrickCollection:
    """Build a model with fresh weights.

    The collection reads `image`, (B, C, H, W) float in [0, 1] or uint8, and writes `normalized`, `features`,
    `embedding` and what each task's docstring names.
    """
    tag = recipe.weights if recipe.weights in timm_tags(recipe.backbone) else None
    name = f"{recipe.backbone}.{tag}" if tag else recipe.backbone
    model = create_part("timm", name=name, in_chans=recipe.in_chans, **recipe.options)
    spec = timm_spec(model, recipe.in_chans, **recipe.options)
    backbone = BrickBackbone(
        model,
        input_names=["normalized"],
        output_names=["features", "embedding"],
        fixed_size=spec.input.size if spec.input.fixed else None,
    )
    backbone.metadata = {"provides": asdict(spec)}
    return BrickCollection(
        {
            "preprocessor": BrickNotTrainable(
                create_part("normalize", mean=list(spec.input.mean), std=list(spec.input.std)),
                input_names=["image"],
                output_names=["normalized"],
            ),
            "backbone": backbone,
            **{head.name: head_bricks(spec, head) for head in recipe.heads},
            **loss_sum(recipe),
        }
    )


def head_bricks(backbone: BackboneSpec, head: HeadRecipe) -> dict[str, Any]:
    """One head's bricks, with fresh weights; first one that checks the types of labels, where its task declares any.

    Raises:
        UnknownNameError: No such task, or no such head of it.
        BrickInputError: The number of labels is not the number of classes.
        BrickGraphError: The task builds no brick named "head".
        BrickMismatchError: The head reads a feature map that the backbone has not.
    """
    task = get_task(head.task)
    variant = head.variant or task.variants[0]
    if variant not in task.variants:
        raise UnknownNameError(f"head of task '{task.name}'", variant, task.variants)
    num_classes = head.num_classes
    if num_classes is None:
        num_classes = len(head.labels) if head.labels else task.default_num_classes(backbone)
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise BrickInputError(f"num_classes of '{head.name}'", f"1 to {_MOST_CLASSES}", f"{num_classes}")
    if head.labels and len(head.labels) != num_classes:
        raise BrickInputError(f"labels of '{head.name}'", f"{num_classes} names", f"{len(head.labels)}")
    spec = HeadSpec(head.name, variant, num_classes, head.labels)
    bricks = task.bricks(backbone, spec)
    if "head" not in bricks:
        raise BrickGraphError(f"The task '{task.name}' builds no brick named 'head', only {list(bricks)}.")
    told = {"task": task.name, "variant": variant, "labels": spec.class_names}
    bricks["head"].metadata = {**told, **bricks["head"].metadata}
    for path, brick in BrickCollection({head.name: bricks}).bricks().items():
        check_reads(backbone, brick.reads, f"Brick '{path}'")
    return {**_label_check(task, head.name), **bricks}


def _label_check(task: Task, head: str) -> dict[str, Any]:
    """The brick that refuses labels of another type than the task's `Metadata` declares, before a loss reads them."""
    typed = {name: label for name, label in task.labels(head).items() if label.types is not None}
    if not typed:
        return {}
    kinds = {name: list(label.types or ()) for name, label in typed.items()}
    part = create_part("check_labels", kinds=kinds)
    brick = BrickNotTrainable(
        part,
        input_names=[label.value for label in typed.values()],
        output_names=["./metadata"],
        tags={Tag.LOSS, Tag.METRIC, Tag.METRIC_INFERENCE},
    )
    return {"metadata": brick}


def loss_sum(recipe: Recipe) -> dict[str, Any]:
    """The brick that adds the heads' losses, where the recipe has weights; a head without labels is left out."""
    weights = recipe.loss_weights
    if weights is None:
        return {}
    heads = [head.name for head in recipe.heads]
    if isinstance(weights, str):
        if weights != "learned":
            raise BrickInputError(
                "loss_weights", f"'learned', or some of the heads {heads} with a number each", repr(weights)
            )
        part = create_part("uncertainty_weighting", count=len(heads))
    else:
        if not set(weights) <= set(heads):
            raise BrickInputError("loss_weights", f"some of the heads {heads}", f"{list(weights)}")
        part = create_part("weighted_sum", weights=[float(weights.get(head, 1.0)) for head in heads])
    return {"loss": BrickLoss(part, input_names=[f"{head}/loss?" for head in heads], output_names=["loss"])}


def recipe_of(model: BrickCollection, weights: str | None = None) -> Recipe | None:
    """The recipe that a model was built after, None where it has no timm backbone.

    Args:
        model: A model that `build` made, or one with the same bricks.
        weights: The weights tag of the recipe, None for that of the backbone.
    """
    brick = model.bricks().get("backbone")
    backbone = part_of(brick.wrapped) if brick else None
    if backbone is None or backbone.type != "timm":
        return None
    options = dict(backbone.args)
    name, _, tag = options.pop("name").partition(".")
    heads = []
    for path, brick in model.bricks().items():
        if "task" in brick.metadata:
            task, variant, labels = (brick.metadata[key] for key in ("task", "variant", "labels"))
            default = variant == get_task(task).variants[0]
            heads.append(HeadRecipe(prefix_of(path), task, None if default else variant, len(labels), tuple(labels)))
    in_chans = options.pop("in_chans")
    return Recipe(name, tuple(heads), weights or tag or None, in_chans, _loss_weights_of(model, heads), options)


def images_of(model: BrickCollection) -> InputSpec | None:
    """The images that a model is for, None where it has no backbone that says so.

    A head that was trained on images of another size than its backbone says it (`image_size`, [H, W] pixels, in its
    metadata); of several sizes it is the largest.
    """
    bricks = model.bricks()
    provides = bricks["backbone"].metadata.get("provides") if "backbone" in bricks else None
    if provides is None:
        return None
    own = BackboneSpec.from_json(provides).input
    heads = [brick.metadata for brick in bricks.values() if "task" in brick.metadata]
    sizes = [tuple(metadata.get("image_size", own.size)) for metadata in heads]
    return replace(own, size=max(sizes, key=prod, default=own.size))


def _loss_weights_of(model: BrickCollection, heads: Sequence[HeadRecipe]) -> dict[str, float] | str | None:
    brick = model.bricks().get("loss")
    part = part_of(brick.wrapped) if brick else None
    if brick is None or part is None or part.type not in ("weighted_sum", "uncertainty_weighting"):
        return None
    if part.type == "uncertainty_weighting":
        return "learned"
    weights = {prefix_of(read.name): weight for read, weight in zip(brick.reads, part.args["weights"], strict=True)}
    return {head.name: weights[head.name] for head in heads if head.name in weights}
