"""What there is to know about a model, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from brickyard.build import build
from brickyard.parts.backbones import BackboneSpec, TimmNames, timm_tags
from brickyard.recipe import parse_name
from brickyard.store import read_json, read_manifest
from brickyard.tasks.registry import task_variants
from brickyard.zoo import check_tag, find_in_zoo


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
    weights: Path | None
    backbone_weights: list[str]


def model_info(name: str) -> ModelInfo:
    """Facts about a model of this name; no weights are made or read.

    Raises:
        UnknownNameError: No such model; the nearest names are shown.
    """
    recipe = parse_name(name, TimmNames(), task_variants())
    folder = find_in_zoo(recipe.stem, recipe.weights)
    extra: dict[str, Any] = {}
    stored: dict[str, dict[str, Any]] = {}
    if folder is None:
        check_tag(recipe)
    else:
        manifest = read_manifest(folder)
        recipe, extra = manifest.recipe or recipe, manifest.extra
        stored = {path: read_json(folder / f"{entry['at']}.json") for path, entry in manifest.bricks.items()}
    with torch.device("meta"):
        model = build(recipe)
    bricks = model.bricks()
    heads = {head.name: bricks[f"{head.name}/head"] for head in recipe.heads}
    facts = {path: stored.get(path, brick.metadata) for path, brick in bricks.items()}
    return ModelInfo(
        name=recipe.name,
        backbone=recipe.backbone,
        tasks={head.name: head.task for head in recipe.heads},
        num_classes={name: len(brick.metadata["labels"]) for name, brick in heads.items()},
        labels={head.name: stored[f"{head.name}/head"]["labels"] for head in recipe.heads if stored},
        parameters={
            path: count for path, brick in bricks.items() if (count := sum(p.numel() for p in brick.parameters()))
        },
        spec=BackboneSpec.from_json(facts["backbone"]["provides"]),
        licence={path: fact["licence"] for path, fact in facts.items() if "licence" in fact},
        metrics=extra.get("metrics", {}),
        weights=folder,
        backbone_weights=timm_tags(recipe.backbone),
    )
