"""Compute which bricks replace others when a brick or a head is swapped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from brickyard.core.brick import Brick, HasBricks
from brickyard.core.modules import BrickModule
from brickyard.core.names import is_inside, join, prefix_of
from brickyard.core.specs import BackboneSpec, HeadInfo
from brickyard.core.tags import Stage
from brickyard.errors import BrickInputError, BrickMismatchError, BrickNotFoundError
from brickyard.parts.registry import create_part
from brickyard.recipe.build import head_bricks
from brickyard.recipe.inspection import provided_by
from brickyard.recipe.recipe import HeadRecipe
from brickyard.storage.config import well_formed
from brickyard.storage.fit import BrickInfo, Check, fits, refuse
from brickyard.storage.read import StoredBrick, fetch_brick, find_brick
from brickyard.storage.rebuild import differs, rebuild
from brickyard.storage.sources.files import Access, Files
from brickyard.storage.sources.uri import open_source

Source = str | os.PathLike[str] | nn.Module | dict[str, Any]


def replacements(model: HasBricks, name: str, source: Source, check: Check, access: Access) -> dict[str, Any]:
    """Return the bricks that `model.swap(name, source)` sets, for `model.update`; see `BrickCollection.swap`."""
    bricks = model.bricks()
    if isinstance(source, (nn.ModuleDict, dict)):
        return {name: source}
    if isinstance(source, Brick):
        path = f"{name}/head" if f"{name}/head" in bricks else name
        if path != name and source.head is not None:
            return _head(bricks, name, name, source.head, {"head": source}.get)
        return {path: source, **_preprocessor(bricks, source.provides)}
    if isinstance(source, nn.Module):
        path = _path_of(bricks, name)
        return {path: _rewrap(source, bricks.get(path), path)}
    files, path = open_source(source, access=access)
    return files.whole(lambda: _stored_replacements(model, name, files, path or name, str(source), check))


def _stored_replacements(
    model: HasBricks, name: str, files: Files, path: str, source: str, check: Check
) -> dict[str, Any]:
    """Return the bricks that a stored brick or head brings."""
    bricks = model.bricks()
    stored = find_brick(files, path)
    has_hash = (stored.info.weights or {}).get("sha256") is not None
    with well_formed(stored.info.file):
        reasons = fits(stored.info, model, check if has_hash or check != "exact" else "input")
        refuse(f"'{source}'", reasons, check)
    if not has_hash:  # it was stored by timm, or has no weights
        stored = stored.with_hashes()
        refuse(f"'{source}'", fits(stored.info, model, check), check)
    info = stored.info
    _check_classes(bricks, name, info)
    if info.task is not None and not name.endswith("/head"):
        head = HeadInfo.from_json(info.config)
        return _head(bricks, name, prefix_of(info.path) or name, head, partial(_sibling, stored))
    if info.provides is not None:
        return {name: fetch_brick(stored), **_preprocessor(bricks, info.provides)}
    return {_path_of(bricks, name): fetch_brick(stored)}


def _check_classes(bricks: Mapping[str, Brick], name: str, info: BrickInfo) -> None:
    """Refuse the weights of a head alone if its loss and metrics have other classes or key points."""
    before = bricks[name].head if name in bricks else None
    if before is None or info.task is None:
        return
    problems = []
    if list(before.labels) != info.labels:
        problems.append(f"labels: expected {list(before.labels)[:20]}, found {info.labels[:20]}")
    if before.keypoints != (keypoints := HeadInfo.from_json(info.config).keypoints):
        problems.append(f"key points: expected {before.keypoints}, found {keypoints}")
    if problems:
        hint = f"Swap the head '{prefix_of(name)}' as a whole, which brings its loss and metrics"
        raise BrickMismatchError(f"'{info.file}' does not fit '{name}'. {hint}", problems)


def _head(
    bricks: Mapping[str, Brick], name: str, source: str, head: HeadInfo, load: Callable[[str], Brick | None]
) -> dict[str, Any]:
    """Return the bricks that a new head brings.

    Bricks with weights are loaded. The others that outputs depend on, such as a decoder, are built with the arguments
    that they have in the source. Loss, metrics and visualization are built for the new classes, unless the model has a
    head of the same kind and classes already.

    Args:
        bricks: The bricks of the model.
        name: The name of the head in the model.
        source: Its name in the model that it is from.
        head: What the new head predicts.
        load: Returns the brick of a name in the new head, None if it brings none.
    """
    backbone = provided_by(bricks)
    if backbone is None:
        expected = "a model with a backbone that declares what it provides"
        raise BrickInputError(f"swap '{name}'", expected, "none")
    recipe = HeadRecipe(name, head.task, head.variant, len(head.labels), head.labels, head.keypoints)
    # On the meta device: nothing is initialised only to be replaced, and the random state of the caller stays.
    with torch.device("meta"):
        planned = head_bricks(backbone, recipe)
        default = head_bricks(backbone, replace(recipe, name=source))
    weighted = [key for key, brick in planned.items() if brick.module is not None and brick.module.state_dict()]
    further = [key for key, brick in planned.items() if key not in weighted and brick.tags & Stage.INFERENCE.tags]
    loaded = {key: brick for key in weighted if (brick := load(key)) is not None}
    stored = {key: brick for key in further if (brick := _if_stored(load, key)) is not None}
    with torch.random.fork_rng():
        built = rebuild(stored, default, {key: planned[key] for key in stored})
        present = {key: bricks[path] for key in planned if (path := join(name, key)) in bricks}
        if "head" in present and _same_kind(present["head"].head, head):
            other = {key: brick for key, brick in built.items() if key in present and differs(brick, present[key])}
            return {join(name, key): brick for key, brick in {**loaded, **other}.items()}
        return {name: {**head_bricks(backbone, recipe), **built, **loaded}}


def _same_kind(one: HeadInfo | None, other: HeadInfo) -> bool:
    if one is None:
        return False
    first, second = ((each.task, each.variant, each.labels, each.keypoints) for each in (one, other))
    return first == second


def _if_stored(load: Callable[[str], Brick | None], key: str) -> Brick | None:
    try:
        return load(key)
    except BrickNotFoundError:  # only the brick with the weights was pushed
        return None


def _sibling(stored: StoredBrick, key: str) -> Brick:
    """Load the brick of a name in the same head."""
    path = join(prefix_of(stored.info.path), key)
    return fetch_brick(stored if path == stored.info.path else find_brick(stored.files, path))


def _preprocessor(bricks: Mapping[str, Brick], provides: BackboneSpec | None) -> dict[str, Any]:
    """Return the preprocessor for the images that another backbone was trained on, if the model has brickyard's."""
    before = bricks.get("preprocessor")
    if provides is None or not isinstance(before, BrickModule) or before.module_name != "Preprocessor":
        return {}
    images = provides.input
    part = create_part("normalize", mean=list(images.mean), std=list(images.std))
    return {"preprocessor": type(before)(part, input_names=before.input_names, output_names=before.output_names)}


def _path_of(bricks: Mapping[str, Brick], name: str) -> str:
    """Return the path of the brick that a name means: the brick itself, or the head of that name."""
    if name in bricks:
        return name
    if f"{name}/head" in bricks:
        return f"{name}/head"
    if any(is_inside(path, name) for path in bricks) or "/" not in name:
        raise BrickNotFoundError.of(name, "the model", bricks)
    return name


def _rewrap(module: nn.Module, before: Brick | None, path: str) -> Brick:
    """Return a brick like the one before, which wraps another module."""
    if not isinstance(before, BrickModule):
        expected = "a brick that wraps a module, whose names the new module takes"
        raise BrickInputError(f"swap '{path}'", expected, type(before).__name__)
    brick = type(before)(module, **before.settings)
    brick.head, brick.provides, brick.metadata = before.head, before.provides, dict(before.metadata)
    brick.provenance = replace(before.provenance, dtypes={}) if before.provenance else None
    return brick
