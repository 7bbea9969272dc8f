"""Build a model from a name, a folder or a repo of the Hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionResolutionError
from torch import nn

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.specs import BackboneSpec
from brickyard.errors import BrickInputError, BrickNotFoundError, HubConnectionError, UnknownNameError
from brickyard.importers.entry import ImportEntry
from brickyard.importers.importing import build_import, find_import, load_import
from brickyard.parts.backbones import TimmNames, timm_has_weights, timm_hub_repo, timm_pretrained
from brickyard.recipe.build import build, build_around
from brickyard.recipe.inspection import BACKBONE
from brickyard.recipe.names import parse_heads, parse_name
from brickyard.recipe.recipe import Recipe
from brickyard.storage.adapt import (
    Changes,
    Keypoints,
    Labels,
    LossWeights,
    NumClasses,
    change_bricks,
    change_recipe,
    change_trained,
    warn_fresh,
)
from brickyard.storage.read import build_fresh, load_files, read_bricks, read_manifest
from brickyard.storage.sources.files import Access, Files
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.sources.uri import is_source, open_source
from brickyard.storage.sources.zoo import check_tag, find_in_zoo, zoo_folders
from brickyard.tasks.registry import task_variants

_log = logging.getLogger(__name__)
_TIMM_FILE = "model.safetensors"  # of the weights in a repo of timm's


def create_model(
    name: str | None = None,
    *,
    backbone: str | nn.Module | None = None,
    spec: BackboneSpec | None = None,
    tasks: Mapping[str, str] | None = None,
    pretrained: bool = False,
    num_classes: NumClasses = None,
    labels: Labels = None,
    in_chans: int | None = None,
    bricks: Mapping[str, str] | None = None,
    loss_weights: LossWeights = None,
    rename: bool = False,
    keypoints: Keypoints = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
    **options: Any,
) -> BrickCollection:
    """Build a model.

    The same name always gives the same architecture, with or without weights. A name without a weights tag means the
    default tag: that of the first such model in the zoo, else that of timm.

    Args:
        name: `<backbone>_<task>[-<head>][_<task>...][.<weights tag>]`, such as "resnet18_cls". Or the source of a
            stored model, which is always loaded with its weights: "local-dir:<folder>", "hf-hub:user/repo@rev",
            "hf://user/repo@rev".
        backbone: Instead of a name, timm's name of the backbone, together with `tasks`. Or a module, together with
            `spec` and `tasks`: it takes the normalised image and returns a tuple of the feature maps, fine to coarse,
            and the embedding, (B, E). To be saved, it must be a part that `create_part` built.
        spec: What a module as backbone takes and provides.
        tasks: The task of each head by the head's name, such as {"age": "cls", "breed": "cls", "parts": "seg-unet"}, if
            several heads have one task.
        pretrained: Load trained weights: from the zoo in the package, else from a folder in `BRICKYARD_ZOO`, else from
            the Hub organisation in `BRICKYARD_HUB` ("brickyard" by default), else from another library, if the name is
            that of a model that `import_model` knows, else timm's own for the backbone, with fresh heads (and timm's
            classifier, unless another number of classes is asked for). The source is logged.
        num_classes: A number for a model of one head, otherwise {head: number}; by default that of the weights.
        labels: The class names, as for `num_classes`. Trained weights of a class follow its name, in any order; a name
            that the weights do not have starts with fresh weights, with a warning. Weights whose classes have no names
            but numbers take these names.
        in_chans: The number of channels of the image, by default that of the weights. Pretrained weights are adapted as
            timm does.
        bricks: Sources of single bricks or heads, such as {"seg": "hf://user/repo/seg"}, see `BrickCollection.swap`.
        loss_weights: Add the heads' losses to one, `loss`: {head: weight}, 1 for heads that are not named, or "learned"
            for uncertainty weighting (Kendall et al. 2018, https://arxiv.org/abs/1705.07115).
        rename: `labels` are other names of the same classes in the same order, so that all trained weights stay.
        keypoints: The key points of each object for a head of the task `pose`, as for `num_classes`: their number,
            their names, or a `KeypointSpec`; by default those of the weights, or 17 as in COCO.
        cache_dir: The folder of the cache of huggingface_hub, None for the default (`HF_HUB_CACHE`, `HF_HOME`).
        force_download: Download files from the Hub again that are in the cache.
        **options: Further arguments of `timm.create_model`, such as `drop_path_rate=0.1`.

    Returns:
        The model in training mode. It reads `image`, (B, C, H, W) float in [0, 1] or uint8.

    Raises:
        UnknownNameError: No such model, task, head or weights; the message has the nearest names.
        BrickInputError: `num_classes` or `labels` do not fit the heads, or an argument cannot be combined with a
            module as backbone.
        BrickNotFoundError, BrickMismatchError, BrickIntegrityError, UnsafeBrickError: A stored model or brick cannot be
            loaded, or does not fit.
        huggingface_hub's own errors for a model on the Hub.

    Example:
        >>> import brickyard
        >>> model = brickyard.create_model("test_resnet_cls", num_classes=3)
        >>> sorted(model)
        ['backbone', 'cls', 'preprocessor']
    """
    changes = Changes(num_classes, labels, in_chans, loss_weights, rename, options, keypoints)
    access = Access(cache_dir=cache_dir, force_download=force_download)
    if isinstance(backbone, nn.Module):
        if name is not None or pretrained:
            raise BrickInputError(
                "create_model", "neither a name nor pretrained= with a module as backbone", f"{name=}, {pretrained=}"
            )
        built = _around(backbone, spec, tasks, changes)
    elif spec is not None:
        raise BrickInputError("create_model", "spec= only with a module as backbone", f"{backbone=}")
    else:
        built = _bricks(name, backbone, tasks, pretrained, changes, access)
    model = BrickCollection.of_new(built)
    for path in sorted(bricks or {}, key=lambda path: path != BACKBONE):
        model.swap(path, (bricks or {})[path], cache_dir=cache_dir, force_download=force_download)
    return model


def _bricks(
    name: str | None,
    backbone: str | None,
    tasks: Mapping[str, str] | None,
    pretrained: bool,
    changes: Changes,
    access: Access,
) -> dict[str, Brick]:
    if name is not None and is_source(name) and backbone is None and tasks is None:
        source, path = open_source(name, access=access)
        return change_trained(load_files(source, only=path or None), changes, name)
    recipe = _recipe(name, backbone, tasks)
    zoo = None if name is None else find_in_zoo(recipe.stem, recipe.weights, access)
    imported = find_import(recipe.stem, recipe.weights) if zoo is None and name is not None else None
    if not pretrained:
        return _fresh(recipe, zoo, imported, changes)
    if zoo is None:
        change_recipe(recipe, changes)  # raises for invalid arguments before the network is asked
    files: Files | None = zoo
    if files is None and name is not None:
        organisation = os.environ.get("BRICKYARD_HUB", "brickyard")
        files = _on_hub(HubFiles(f"{organisation}/{recipe.name}", None, access))
    if files is None and imported is not None:
        _log.info("'%s': weights from %s", recipe.name, imported.source)
        return change_trained(load_import(imported), changes, recipe.name)
    if files is None:
        check_tag(recipe)
        return _from_timm(change_recipe(recipe, changes), access)
    _log.info("'%s': weights from %s", recipe.name, files.location)
    return change_trained(load_files(files), changes, recipe.name)


def _fresh(recipe: Recipe, zoo: Files | None, imported: ImportEntry | None, changes: Changes) -> dict[str, Brick]:
    """Build the architecture of a name, which is that of the trained model of this name, if there is one."""
    if zoo is not None:
        infos = {path: stored.info for path, stored in read_bricks(zoo)[1].items()}
        return change_bricks(build_fresh(infos), changes, recipe.name)
    if imported is not None:
        return change_bricks(build_import(imported), changes, recipe.name)
    check_tag(recipe)
    return build(change_recipe(recipe, changes))


def _around(
    backbone: nn.Module, spec: BackboneSpec | None, tasks: Mapping[str, str] | None, changes: Changes
) -> dict[str, Brick]:
    """Build a model around a module."""
    if spec is None or not tasks:
        raise BrickInputError("create_model", "spec= and tasks= with a module as backbone", f"{spec=}, {tasks=}")
    if changes.in_chans is not None or changes.options:
        found = f"in_chans={changes.in_chans}, {dict(changes.options)}"
        raise BrickInputError("create_model", "no in_chans= and options with a module as backbone", found)
    recipe = Recipe("", parse_heads(tasks, task_variants()), in_chans=spec.input.channels)
    return build_around(backbone, spec, change_recipe(recipe, changes))


def _on_hub(repo: HubFiles) -> Files | None:
    """Return the model in a repo; None if there is none, or no network."""
    try:
        return read_manifest(repo)[1]
    except (
        RepositoryNotFoundError,
        RevisionResolutionError,
        BrickNotFoundError,
        HubConnectionError,
        LocalEntryNotFoundError,
    ):
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


def _from_timm(recipe: Recipe, access: Access) -> dict[str, Brick]:
    """Build a model with timm's weights for the backbone, and for a head that is timm's own classifier."""
    name = f"{recipe.backbone}.{recipe.weights}" if recipe.weights else recipe.backbone
    if not timm_has_weights(name):
        raise UnknownNameError("pretrained model", recipe.name, zoo_folders(), "timm has no weights for it either.")
    _log.info("'%s': the backbone's weights from timm, '%s'", recipe.name, name)
    repo = timm_hub_repo(name) if access.force_download else None
    if repo is not None:
        with suppress(BrickNotFoundError):  # timm has a few weights as pickles only
            HubFiles(repo, None, access).fetch({_TIMM_FILE: None})
    weights = timm_pretrained(name, recipe.in_chans, cache_dir=access.cache_dir, **recipe.options)
    classifiers = [
        head.name
        for head in recipe.heads
        if weights.classifier
        and head.task == "cls"
        and head.variant is None
        and head.num_classes in (None, weights.num_classes)
    ]
    heads = [
        replace(head, labels=head.labels or weights.labels) if head.name in classifiers else head
        for head in recipe.heads
    ]
    bricks = build(replace(recipe, heads=tuple(heads)))
    _load(bricks[BACKBONE], weights.state)
    for head in recipe.heads:
        if head.name in classifiers:
            brick = bricks[f"{head.name}/head"]
            _load(brick, weights.classifier)
            if brick.head is not None:
                brick.head = replace(brick.head, trained=True)
        else:
            warn_fresh(head.name)
    return bricks


def _load(brick: Brick, state: Mapping[str, Any]) -> None:
    if brick.module is not None:
        brick.module.load_state_dict({key: state[key] for key in brick.module.state_dict()})
