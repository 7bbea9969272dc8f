"""What there is to know about a model, without its weights."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import final

import torch

from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.parts.backbones import BackboneSpec, TimmNames, timm_tags
from brickyard.recipe.build import build, images_of, recipe_of
from brickyard.recipe.names import parse_name
from brickyard.storage.read import build_on_meta, read_bricks
from brickyard.storage.sources.files import DEFAULT_ACCESS, Files, FolderFiles
from brickyard.storage.sources.uri import is_source, locate, open_source
from brickyard.storage.sources.zoo import check_tag, find_in_zoo, zoo_folders
from brickyard.tasks.registry import TASKS, task_variants


@final
@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model.

    Attributes:
        name: Its full name.
        backbone: timm's name of the backbone.
        tasks: The task of each head.
        num_classes: The classes of each head.
        labels: The class names of each head that knows them.
        parameters: The number of parameters of each brick that has any.
        spec: The images that it takes, and what the backbone gives to heads.
        licence: Of each brick with weights, where known.
        metrics: Measured figures, where known.
        weights: Where trained weights for the whole are, or None.
        backbone_weights: The tags of timm's own weights for the backbone, the default first.
    """

    name: str
    backbone: str
    tasks: dict[str, str]
    num_classes: dict[str, int]
    labels: dict[str, list[str]]
    parameters: dict[str, int]
    spec: BackboneSpec
    licence: dict[str, str]
    metrics: dict[str, float]
    weights: str | None
    backbone_weights: list[str]


def model_info(name: str) -> ModelInfo:
    """Facts about a model; no weights are made or read.

    Args:
        name: A model's name, or where a model is stored, see `sources.py`.

    Raises:
        UnknownNameError: No such model; the nearest names are shown.
        Else as for `inspect_brick`, for a stored model.
    """
    files, known_as = _stored(name)
    if files is None:
        with torch.device("meta"):
            model = build(parse_name(name, TimmNames(), task_variants()))
    else:
        model = build_on_meta(read_bricks(files)[1])
    recipe = recipe_of(model)
    if recipe is None:
        raise BrickInputError(name, "a model with a timm backbone", "one without")
    bricks = model.bricks()
    spec = BackboneSpec.from_json(bricks["backbone"].metadata["provides"])
    heads = {head.name: bricks[f"{head.name}/head"].metadata for head in recipe.heads}
    return ModelInfo(
        name=known_as or recipe.name,
        backbone=recipe.backbone,
        tasks={head.name: head.task for head in recipe.heads},
        num_classes={head: len(facts["labels"]) for head, facts in heads.items()},
        labels={head: list(facts["labels"]) for head, facts in heads.items() if files is not None},
        parameters={
            path: count for path, brick in bricks.items() if (count := sum(p.numel() for p in brick.parameters()))
        },
        spec=replace(spec, input=images_of(model) or spec.input),
        licence={path: brick.metadata["licence"] for path, brick in bricks.items() if "licence" in brick.metadata},
        metrics={
            f"{head}/{metric}": value
            for head, facts in heads.items()
            for metric, value in facts.get("metrics", {}).items()
        },
        weights=None if files is None else files.location,
        backbone_weights=timm_tags(recipe.backbone),
    )


def _stored(name: str) -> tuple[Files | None, str | None]:
    """Where the model is stored, None if nowhere; and its full name, None if its place has none."""
    place = locate(name)
    if is_source(place) or "/" in place:
        files, _ = open_source(place)
        return files, None
    recipe = parse_name(name, TimmNames(), task_variants())
    folder = find_in_zoo(recipe.stem, recipe.weights)
    if folder is None:
        check_tag(recipe)
        return None, recipe.name
    return FolderFiles(folder, DEFAULT_ACCESS, folder.name), folder.name


def list_models(
    filter: str | Sequence[str] = "*", *, pretrained: bool = False, tasks: Sequence[str] | None = None
) -> list[str]:
    """Names that `create_model` takes.

    Args:
        filter: Wildcards as in timm, e.g. "resnet*_cls"; of several, a name must match one.
        pretrained: Only whole models with trained weights on this machine, with their weights tags.
        tasks: Only models that have all these tasks.

    Raises:
        UnknownNameError: A task that is not registered.
    """
    tasks = [tasks] if isinstance(tasks, str) else tasks
    for task in tasks or ():
        if task not in TASKS:
            raise UnknownNameError("task", task, TASKS)
    wildcards = [filter] if isinstance(filter, str) else list(filter)
    names = zoo_folders() if pretrained else _all_names()
    return [
        name
        for name in names
        if any(fnmatchcase(name, wildcard or "*") for wildcard in wildcards)
        and (not tasks or set(tasks) <= {token.partition("-")[0] for token in name.partition(".")[0].split("_")})
    ]


def _all_names() -> Iterator[str]:
    """Every backbone with every combination of tasks, but for names that can be read in two ways."""
    counts = range(1, len(TASKS) + 1)
    suffixes = ["_".join(tasks) for count in counts for tasks in itertools.combinations(TASKS, count)]
    names = Counter(f"{backbone}_{suffix}" for backbone in TimmNames() for suffix in suffixes)
    return (name for name, readings in names.items() if readings == 1)
