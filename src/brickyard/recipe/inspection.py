"""Read a built model: its heads, recipe, name and the images that it takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from brickyard.core.brick import Brick
from brickyard.core.modules import BrickLoss, BrickModule
from brickyard.core.names import prefix_of
from brickyard.core.specs import RESIZE_MODES, BackboneSpec, HeadInfo, InputSpec
from brickyard.parts.registry import part_of
from brickyard.recipe.recipe import HeadRecipe, Recipe
from brickyard.tasks.registry import get_task

BACKBONE = "backbone"  # the path of the backbone in every model that has one


def heads_of(bricks: Mapping[str, Brick]) -> dict[str, HeadInfo]:
    """Return what each head predicts, by the name of the head ("seg" for the brick "seg/head")."""
    return {prefix_of(path): brick.head for path, brick in bricks.items() if brick.head is not None}


def head_metadata(bricks: Mapping[str, Brick]) -> dict[str, dict[str, Any]]:
    """Return all that is stored about each head as JSON values: task, variant, labels, licence, metrics, ..."""
    return {
        prefix_of(path): {**brick.head.to_json(), **brick.metadata}
        for path, brick in bricks.items()
        if brick.head is not None
    }


def frozen_of(bricks: Mapping[str, Brick]) -> list[str]:
    """Return the paths of the frozen bricks, without those that have no parameters."""
    return [
        path
        for path, brick in bricks.items()
        if isinstance(brick, BrickModule) and not brick.trainable and next(brick.parameters(), None) is not None
    ]


def losses_of(bricks: Mapping[str, Brick]) -> dict[str, str]:
    """Return the formula of the loss of each head that has one, by the name of the head."""
    losses = {head: bricks.get(f"{head}/loss") for head in heads_of(bricks)}
    return {head: loss.formula for head, loss in losses.items() if isinstance(loss, BrickLoss)}


def decoders_of(bricks: Mapping[str, Brick]) -> dict[str, str]:
    """Return the settings of the decoder of each head that has one, as `repr` shows them, by the name of the head."""
    decoders = {head: bricks.get(f"{head}/decode") for head in heads_of(bricks)}
    texts = {head: brick.module.extra_repr() for head, brick in decoders.items() if brick and brick.module}
    return {head: text for head, text in texts.items() if text}


def provided_by(bricks: Mapping[str, Brick]) -> BackboneSpec | None:
    """Return what the backbone provides to heads, None without a backbone that declares it."""
    return bricks[BACKBONE].provides if BACKBONE in bricks else None


def recipe_of(bricks: Mapping[str, Brick], weights: str | None = None) -> Recipe | None:
    """Return the recipe that builds such a model, None if it has no backbone that declares what it provides.

    The recipe of a model around another backbone than timm's has "" as its backbone.

    Args:
        bricks: The bricks of the model by path.
        weights: The weights tag of the recipe, None for that of the backbone.
    """
    provides = provided_by(bricks)
    if provides is None:
        return None
    backbone = part_of(bricks[BACKBONE].wrapped)
    is_timm = backbone is not None and backbone.type == "timm"
    options = dict(backbone.args) if backbone is not None and is_timm else {}
    name, _, tag = options.pop("name", "").partition(".")
    heads = []
    for path, head in heads_of(bricks).items():
        variant = None if head.variant == get_task(head.task).variants[0] else head.variant
        heads.append(HeadRecipe(path, head.task, variant, len(head.labels), head.labels, head.keypoints))
    in_chans = options.pop("in_chans", provides.input.channels)
    loss_weights = _loss_weights_of(bricks, [head.name for head in heads])
    return Recipe(name, tuple(heads), weights or tag or None, in_chans, loss_weights, options)


def name_of(bricks: Mapping[str, Brick], weights: str | None = None) -> str | None:
    """Return the name that `create_model` takes for such a model, None if there is none.

    Args:
        bricks: The bricks of the model by path.
        weights: The weights tag of the name, None for that of the heads, if all have the same, else of the backbone.
    """
    tags = {head.weights_tag for head in heads_of(bricks).values()}
    recipe = recipe_of(bricks, weights or (tags.pop() if len(tags) == 1 else None))
    return recipe.name if recipe and recipe.backbone and all(head.name == head.task for head in recipe.heads) else None


def images_of(bricks: Mapping[str, Brick]) -> InputSpec | None:
    """Return the images that a model takes, None if it has no backbone that declares them.

    Size and crop mode are those of the images that the heads were trained on; of several sizes, the largest. Training
    uses whole images, so where a head has a `resize_mode`, it is the crop mode, and nothing is cropped. Nor are images
    for dense tasks, whose outputs cover the image.
    """
    backbone = provided_by(bricks)
    if backbone is None:
        return None
    heads = heads_of(bricks).values()
    images = [_images_of_head(head, backbone.input) for head in heads]
    largest = max(images, key=lambda spec: prod(spec.size), default=backbone.input)
    is_whole = largest.crop_mode in RESIZE_MODES or not any(get_task(head.task).is_dense for head in heads)
    return largest if is_whole else replace(largest, crop_mode="squash", crop_pct=1.0)


def _images_of_head(head: HeadInfo, images: InputSpec) -> InputSpec:
    images = images if head.image_size is None else replace(images, size=head.image_size)
    return images if head.resize_mode is None else replace(images, crop_mode=head.resize_mode, crop_pct=1.0)


def _loss_weights_of(bricks: Mapping[str, Brick], heads: Collection[str]) -> dict[str, float] | str | None:
    brick = bricks.get("loss")
    part = part_of(brick.wrapped) if brick else None
    if brick is None or part is None or part.type not in ("weighted_sum", "uncertainty_weighting"):
        return None
    if part.type == "uncertainty_weighting":
        return "learned"
    weights = {prefix_of(read.name): weight for read, weight in zip(brick.reads, part.args["weights"], strict=True)}
    return {head: weights[head] for head in heads if head in weights}
