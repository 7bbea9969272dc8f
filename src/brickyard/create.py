"""The factory: from a name or a folder to a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionResolutionError

from brickyard.collection import BrickCollection
from brickyard.errors import BrickInputError, BrickNotFoundError, UnknownNameError
from brickyard.parts.backbones import TimmNames, timm_has_weights, timm_pretrained
from brickyard.recipe.build import build, recipe_of
from brickyard.recipe.names import Recipe, parse_heads, parse_name
from brickyard.storage.adapt import Changes, Labels, LossWeights, Numbers, adapted, changed, warn_fresh
from brickyard.storage.fit import BACKBONE
from brickyard.storage.read import build_on_meta, load_pretrained, read_bricks, read_manifest
from brickyard.storage.replace import swap
from brickyard.storage.sources.files import DEFAULT_ACCESS, Files, FolderFiles
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.sources.uri import is_source, open_source
from brickyard.storage.sources.zoo import check_tag, find_in_zoo, zoo_folders
from brickyard.tasks.registry import task_variants

_log = logging.getLogger(__name__)


def create_model(
    name: str | None = None,
    *,
    backbone: str | None = None,
    tasks: Mapping[str, str] | None = None,
    pretrained: bool = False,
    num_classes: Numbers = None,
    labels: Labels = None,
    in_chans: int | None = None,
    bricks: Mapping[str, str] | None = None,
    loss_weights: LossWeights = None,
    **options: Any,
) -> BrickCollection:
    """Assemble a model.

    Args:
        name: `<backbone>_<task>[-<head>][_<task>...][.<weights tag>]`, e.g. "resnet18_cls". With the tag of a trained
            model, its heads. Or where a model is stored, and then always with its weights: "local-dir:<folder>",
            "hf-hub:user/repo@rev", "hf://user/repo@rev".
        backbone: Instead of a name, timm's name of the backbone, with
        tasks: its heads: {"age": "cls", "breed": "cls", "parts": "seg-unet"}, so that several may be of one task.
        pretrained: Take trained weights: from the zoo that the package carries, else from a folder named in
            `BRICKYARD_ZOO`, else from the organisation of the Hub that `BRICKYARD_HUB` names ("brickyard" by default),
            else timm's own for the backbone, with fresh heads (a classifier of timm's comes along unless another number
            of classes is asked for). The log says which it took.
        num_classes: For a model of one task a number, otherwise {task: number}; by default that of the weights.
        labels: The class names, like `num_classes`.
        in_chans: Channels of the image, by default those of the weights; pretrained weights are adapted as timm does.
        bricks: Where to take some bricks or heads from: {"seg": "hf://user/repo/seg"}, see `swap`. They must fit; a
            backbone comes first.
        loss_weights: Add the heads' losses to one, `loss`: {head: weight}, 1 where a head is not named, or "learned"
            for uncertainty weighting (Kendall et al. 2018).
        **options: Further arguments of `timm.create_model`, e.g. `drop_path_rate=0.1`.

    Returns:
        The model, in training mode. It reads `image`, (B, C, H, W) float in [0, 1] or uint8.

    Raises:
        UnknownNameError: No such model, task, head or weights; the nearest names are shown.
        BrickInputError: `num_classes` or `labels` do not fit the heads.
        BrickNotFoundError, BrickMismatchError, BrickIntegrityError, UnsafeBrickError: A stored model or brick that
            cannot be loaded, or does not fit.
        huggingface_hub's own errors for a model of the Hub.
    """
    changes = Changes(num_classes, labels, in_chans, loss_weights, options)
    model = _created(name, backbone, tasks, pretrained, changes)
    for path in sorted(bricks or {}, key=lambda path: path != BACKBONE):
        swap(model, path, (bricks or {})[path])
    return model


def _created(
    name: str | None, backbone: str | None, tasks: Mapping[str, str] | None, pretrained: bool, changes: Changes
) -> BrickCollection:
    if name is not None and is_source(name) and backbone is None and tasks is None:
        place, path = open_source(name)
        return adapted(load_pretrained(place, only=path or None), changes, name)
    recipe = _recipe(name, backbone, tasks)
    folder = None if name is None else find_in_zoo(recipe.stem, recipe.weights)
    files = FolderFiles(folder, DEFAULT_ACCESS, folder.name) if folder else None
    if not pretrained:
        if files is None:
            check_tag(recipe)
        elif recipe.weights:
            recipe = recipe_of(build_on_meta(read_bricks(files)[1]), recipe.weights) or recipe
        return build(changed(recipe, changes))
    wanted = changed(recipe, changes) if files is None else recipe
    stored = files or (None if name is None else _on_hub(recipe.name))
    if stored is None:
        check_tag(recipe)
        return _from_timm(wanted)
    _log.info("'%s': weights from %s", recipe.name, stored.location)
    return adapted(load_pretrained(stored), changes, recipe.name)


def _on_hub(name: str) -> Files | None:
    """The model of this name in our organisation of the Hub, None where there is none, or no network."""
    organisation = os.environ.get("BRICKYARD_HUB", "brickyard")
    try:
        return read_manifest(HubFiles(f"{organisation}/{name}", None, DEFAULT_ACCESS))[1]
    except (RepositoryNotFoundError, RevisionResolutionError, BrickNotFoundError, LocalEntryNotFoundError):
        return None


def _recipe(name: str | None, backbone: str | None, tasks: Mapping[str, str] | None) -> Recipe:
    variants = task_variants()
    if name is not None and backbone is None and tasks is None:
        return parse_name(name, TimmNames(), variants)
    if name is None and backbone is not None and tasks:
        stem, _, weights = backbone.partition(".")
        if stem not in TimmNames():
            raise UnknownNameError("backbone", stem, TimmNames())
        return Recipe(stem, parse_heads(tasks, variants), weights or None)
    raise BrickInputError("create_model", "a name, or backbone= and tasks=", f"{name=}, {backbone=}, {tasks=}")


def _from_timm(recipe: Recipe) -> BrickCollection:
    """The backbone with timm's own weights; the classifier too, where the head is one of timm's classes."""
    name = f"{recipe.backbone}.{recipe.weights}" if recipe.weights else recipe.backbone
    if not timm_has_weights(name):
        raise UnknownNameError("pretrained model", recipe.name, zoo_folders(), "timm has no weights for it either.")
    _log.info("'%s': the backbone's weights from timm, '%s'", recipe.name, name)
    weights = timm_pretrained(name, recipe.in_chans, **recipe.options)
    kept = [
        head.name
        for head in recipe.heads
        if weights.classifier
        and head.task == "cls"
        and head.variant is None
        and head.num_classes in (None, weights.num_classes)
    ]
    heads = [
        replace(head, labels=head.labels or weights.labels) if head.name in kept else head for head in recipe.heads
    ]
    model = build(replace(recipe, heads=tuple(heads)))
    backbone = model["backbone"].model
    backbone.load_state_dict({key: weights.state[key] for key in backbone.state_dict()})
    for head in recipe.heads:
        if head.name in kept:
            model[f"{head.name}/head"].model.load_state_dict(weights.classifier)
        else:
            warn_fresh(head.name)
    return model
