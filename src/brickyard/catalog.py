"""List the models that `create_model` takes, describe one, and find heads for one, without loading weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import final

import torch

from brickyard.core.brick import Brick, HasBricks
from brickyard.core.names import prefix_of
from brickyard.core.specs import BackboneSpec
from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.importers.entry import ImportEntry
from brickyard.importers.importing import IMPORTS, describe_import, find_import
from brickyard.parts.backbones import TimmNames, timm_modules, timm_tags
from brickyard.recipe.build import build
from brickyard.recipe.inspection import (
    BACKBONE,
    decoders_of,
    frozen_of,
    head_metadata,
    heads_of,
    images_of,
    losses_of,
    name_of,
    provided_by,
    recipe_of,
)
from brickyard.recipe.names import parse_name
from brickyard.storage.fit import CHECKS, Backbone, Check, backbone_of
from brickyard.storage.licences import licences_of
from brickyard.storage.meta import build_on_meta
from brickyard.storage.read import find_brick, read_bricks
from brickyard.storage.search import FoundHead, Wanted, search_heads
from brickyard.storage.sources.files import DEFAULT_ACCESS, Access, Files
from brickyard.storage.sources.uri import is_source, locate, open_source
from brickyard.storage.sources.zoo import check_tag, find_in_zoo, open_zoo, zoo_folders
from brickyard.tasks.registry import TASKS, task_variants


@final
@dataclass(frozen=True)
class ModelInfo:
    """The description of a model.

    Attributes:
        name: The full name.
        backbone: timm's name of the backbone, or the name of the class of another one.
        tasks: The task of each head.
        num_classes: The number of classes of each head.
        labels: The class names of each head, if known.
        parameters: The number of parameters of each brick that has any.
        frozen: The paths of the bricks with parameters that are stored as frozen; a training leaves them unchanged.
        losses: The loss of each head as text.
        decoders: The settings of the decoder of each head that has one, as text.
        spec: The images that the model takes, and what the backbone provides to heads.
        licence: The licence of each brick with trained weights, None for one that states none.
        metrics: The measured metrics, by head and name, if known.
        weights: The source of trained weights for the whole model, None without: the location of a stored model, or
            the argument of `import_model`.
        backbone_weights: The tags of timm's weights for the backbone, the default first.
    """

    name: str
    backbone: str
    tasks: dict[str, str]
    num_classes: dict[str, int]
    labels: dict[str, list[str]]
    parameters: dict[str, int]
    frozen: list[str]
    losses: dict[str, str]
    decoders: dict[str, str]
    spec: BackboneSpec
    licence: dict[str, str | None]
    metrics: dict[str, float]
    weights: str | None
    backbone_weights: list[str]


def model_info(name: str) -> ModelInfo:
    """Describe a model; no weights are created or read.

    Args:
        name: The name of a model, or the source of a stored one, see `storage.sources.uri`.

    Raises:
        UnknownNameError: No such model; the message has the nearest names.
        BrickInputError: The model has no backbone that declares what it provides.
        Other errors as for `inspect_brick`, for a stored model.

    Example:
        >>> import brickyard
        >>> brickyard.model_info("test_resnet_cls").tasks
        {'cls': 'cls'}
    """
    stored, full_name = find_stored(name)
    if stored is None or isinstance(stored, ImportEntry):
        bricks = _build_on_meta(name, stored)
    else:
        bricks = build_on_meta({path: brick.info for path, brick in read_bricks(stored)[1].items()})
    recipe, spec, images = recipe_of(bricks), provided_by(bricks), images_of(bricks)
    if recipe is None or spec is None or images is None:
        raise BrickInputError(name, "a model with a backbone that declares what it provides", "one without")
    heads = heads_of(bricks)
    return ModelInfo(
        name=full_name or name_of(bricks) or (recipe.name if recipe.backbone else name),
        backbone=recipe.backbone or bricks[BACKBONE].module_name,
        tasks={path: head.task for path, head in heads.items()},
        num_classes={path: len(head.labels) for path, head in heads.items()},
        labels={path: list(head.labels) for path, head in heads.items() if stored is not None},
        parameters={
            path: count for path, brick in bricks.items() if (count := sum(p.numel() for p in brick.parameters()))
        },
        frozen=frozen_of(bricks),
        losses=losses_of(bricks),
        decoders=decoders_of(bricks),
        spec=replace(spec, input=images),
        licence={} if stored is None else licences_of(bricks),
        metrics={
            f"{head}/{metric}": value
            for head, metadata in head_metadata(bricks).items()
            for metric, value in metadata.get("metrics", {}).items()
        },
        weights=None if stored is None else stored.source if isinstance(stored, ImportEntry) else stored.location,
        backbone_weights=timm_tags(recipe.backbone) if recipe.backbone else [],
    )


def find_heads(
    model: HasBricks | str | os.PathLike[str],
    *,
    task: str | None = None,
    fits: Check | None = None,
    licences: Sequence[str] | None = None,
    org: str | None = None,
    token: str | bool | None = None,
) -> list[FoundHead]:
    """Find heads for a model on the Hub, in the zoo and in the folders of `BRICKYARD_ZOO`, best first.

    Only JSON is downloaded: at most two lists of repos, and one file for each head, which is kept for the next search.
    Repos are found by the tags of the cards that `push_to_hub` writes. If the Hub cannot be reached, the heads on this
    machine are returned, with a warning.

    Args:
        model: A model, or the name or source of one, whose weights are then not loaded.
        task: Only heads of this task.
        fits: Only heads that fit by this check or a stricter one, see `fits`; None lists also those that do not fit,
            with the reasons.
        licences: Only heads of these licences, as the Hub spells them.
        org: Only heads of this organisation or user on the Hub.
        token: A token of the Hub, as for huggingface_hub.

    Raises:
        UnknownNameError: No such task or model.
        BrickInputError: `fits` or `licences` has another type or value, or the model has no backbone that declares
            what it provides.
        huggingface_hub's own errors for tokens.

    Example:
        >>> import brickyard
        >>> heads = brickyard.find_heads(model, task="seg", licences=["apache-2.0"])  # doctest: +SKIP
        >>> model.swap("seg", heads[0].source, check=heads[0].fits)  # doctest: +SKIP
    """
    if task is not None and task not in TASKS:
        raise UnknownNameError("task", task, TASKS)
    if fits is not None and fits not in CHECKS:
        raise BrickInputError("fits", f"one of {list(CHECKS)}", repr(fits))
    if isinstance(licences, str):
        raise BrickInputError("licences", "a list of licences", repr(licences), f"Pass [{licences!r}].")
    access = Access(token)
    backbone = _stored_backbone(model, access) if isinstance(model, (str, os.PathLike)) else backbone_of(model.bricks())
    if backbone.provides is None:
        raise BrickInputError("model", "a model with a backbone that declares what it provides", "one without")
    return search_heads(backbone, Wanted(task, fits, licences, org), access)


def _stored_backbone(name: str | os.PathLike[str], access: Access) -> Backbone:
    """Describe the backbone of a model by name or source."""
    stored, _ = find_stored(name, access)
    if stored is None or isinstance(stored, ImportEntry):
        return Backbone(provided_by(_build_on_meta(str(name), stored)), None)
    info = find_brick(stored, BACKBONE).info
    return Backbone(info.provides, (info.weights or {}).get("sha256"))


def _build_on_meta(name: str, entry: ImportEntry | None) -> dict[str, Brick]:
    """Build a model that is not stored in this format."""
    if entry is not None:
        return describe_import(entry)
    with torch.device("meta"):
        return build(parse_name(name, TimmNames(), task_variants()))


def find_stored(
    name: str | os.PathLike[str], access: Access = DEFAULT_ACCESS
) -> tuple[Files | ImportEntry | None, str | None]:
    """Find where the trained weights of a model are stored; nothing is downloaded.

    Args:
        name: The name of a model, or the source of a stored one.
        access: How the Hub is accessed.

    Returns:
        The files of the model, or the checkpoint of another library, None if untrained; and the full name of the model,
        if it has one.
    """
    source = locate(name)
    if is_source(source) or "/" in source:
        files, _ = open_source(source, access=access)
        return files, None
    recipe = parse_name(source, TimmNames(), task_variants())
    zoo = find_in_zoo(recipe.stem, recipe.weights)
    if zoo is None:
        entry = find_import(recipe.stem, recipe.weights)
        if entry is None:
            check_tag(recipe)
        return entry, recipe.name
    return zoo, zoo.folder.name


@final
@dataclass(frozen=True)
class TrainedModel:
    """A trained model on this machine, or one that can be imported from another library.

    Attributes:
        name: The full name.
        source: The argument of `import_model`, "" for a model on this machine.
        size: The bytes of its weights.
        metrics: The first measured metric of each head, as "head/name" and value.
    """

    name: str
    source: str
    size: int
    metrics: tuple[tuple[str, float], ...]


@final
@dataclass(frozen=True)
class Family:
    """Backbones of one module of timm.

    Attributes:
        name: The name of timm's module.
        backbones: The number of its backbones.
        pretrained: The number of these that timm has weights for.
        example: The name of the first model.
    """

    name: str
    backbones: int
    pretrained: int
    example: str


def list_trained(filter: str | Sequence[str] = "*", *, tasks: Sequence[str] | None = None) -> list[TrainedModel]:
    """Describe the trained models, of which only the JSON is read; see `list_models`."""
    models = []
    imports = {entry.name: entry for entry in IMPORTS.values()}
    folders = zoo_folders()
    for name in list_models(filter, pretrained=True, tasks=tasks):
        if name not in folders:
            entry = imports[name]
            metrics_of_import = [
                (f"{head}/{key}", values[key]) for head, values in entry.metrics.items() for key in list(values)[:1]
            ]
            models.append(TrainedModel(name, entry.source, entry.size, tuple(metrics_of_import)))
            continue
        infos = {path: stored.info for path, stored in read_bricks(open_zoo(name))[1].items()}
        size = sum(info.weights["size"] for info in infos.values() if info.weights)
        metrics = {path: info.config.get("metrics", {}) for path, info in infos.items()}
        first = [
            (f"{prefix_of(path)}/{key}", values[key]) for path, values in metrics.items() for key in list(values)[:1]
        ]
        models.append(TrainedModel(name, "", size, tuple(first)))
    return models


def list_families(names: Sequence[str]) -> list[Family]:
    """Group models, named as by `list_models`, by the modules of timm that their backbones are from."""
    suffixes = tuple(f"_{task}" for task in TASKS)
    first: dict[str, str] = {}
    for name in names:
        backbone = name
        while backbone.endswith(suffixes):
            backbone = backbone.rpartition("_")[0]
        first.setdefault(backbone, name)
    families = []
    for module, weights in timm_modules().items():
        backbones = [backbone for backbone in weights if backbone in first]
        if backbones:
            pretrained = sum(weights[backbone] for backbone in backbones)
            families.append(Family(module, len(backbones), pretrained, first[backbones[0]]))
    return families


def list_models(
    filter: str | Sequence[str] = "*", *, pretrained: bool = False, tasks: Sequence[str] | None = None
) -> list[str]:
    """List the names that `create_model` takes: every backbone with each task, or with all of `tasks`.

    Names of several tasks are only listed for `tasks`: with ten tasks, there are over two million.

    Args:
        filter: A pattern with wildcards as in timm, such as "resnet*_cls", or several, of which one must match.
        pretrained: Only models with trained weights for all bricks, with their weights tags: those on this machine, and
            those that can be imported from other libraries, see `import_model`.
        tasks: Names of models with these tasks; of trained models, also those with further tasks.

    Raises:
        UnknownNameError: A task that is not registered.
    """
    tasks = [tasks] if isinstance(tasks, str) else tasks
    for task in tasks or ():
        if task not in TASKS:
            raise UnknownNameError("task", task, TASKS)
    wildcards = [filter] if isinstance(filter, str) else list(filter)
    names = _trained_names() if pretrained else _all_names(tasks)
    return [
        name
        for name in names
        if any(fnmatchcase(name, wildcard or "*") for wildcard in wildcards)
        and (not tasks or set(tasks) <= {token.partition("-")[0] for token in name.partition(".")[0].split("_")})
    ]


def _trained_names() -> list[str]:
    return list(dict.fromkeys([*zoo_folders(), *(entry.name for entry in IMPORTS.values())]))


def _all_names(tasks: Sequence[str] | None) -> Iterator[str]:
    """Yield every backbone with each task, or with all of some tasks."""
    suffixes = ["_".join(task for task in TASKS if task in tasks)] if tasks else list(TASKS)
    return (f"{backbone}_{suffix}" for backbone in TimmNames() for suffix in suffixes)
