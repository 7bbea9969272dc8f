"""Put another brick, or another head with all that belongs to it, into a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.modules import BrickModule
from brickyard.core.names import is_inside, join, prefix_of
from brickyard.errors import BrickInputError, BrickNotFoundError
from brickyard.parts.backbones import BackboneSpec
from brickyard.parts.registry import create_part
from brickyard.recipe.build import head_bricks
from brickyard.recipe.names import HeadRecipe
from brickyard.storage.config import well_formed
from brickyard.storage.fit import BACKBONE, BrickInfo, Check, fits, refuse
from brickyard.storage.read import find_brick, restore, with_hashes
from brickyard.storage.sources.files import Access
from brickyard.storage.sources.uri import open_source
from brickyard.storage.weights import SUFFIX


def swap(
    model: BrickCollection,
    name: str,
    source: str | os.PathLike[str] | nn.Module | dict[str, Any],
    *,
    check: Check = "exact",
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> None:
    """Replace a brick or a head, in place.

    A head comes with its own class names. Where they are not those of the head before, its loss, metrics and picture
    are made anew; a brick that no head belongs to changes alone. A backbone brings its normalisation along.

    Args:
        model: It is as before if anything is refused.
        name: A brick, "seg/head", or the place of a head, "seg"; a head that the model has not is added.
        source: Where the other one is stored: `hf://user/repo@rev/seg`, a folder, a zoo model, or a place in one (see
            `sources.py`; without a place, the same name there). Or a brick, a collection or a dictionary of bricks. Or
            a bare module, which takes the brick's names.
        check: How well it must fit, see `fits`.
        token: As huggingface_hub takes it.
        local_files_only: Look only into huggingface_hub's cache.

    Raises:
        BrickMismatchError: It does not fit; of a head on the Hub, no weights have travelled.
        BrickNotFoundError: There is no such brick, there or here.
        BrickIntegrityError, UnsafeBrickError: It is not what it says.
    """
    _swap(model, name, source, check, Access(token, local_files_only))
    model[name].train(model.training)


def _swap(
    model: BrickCollection,
    name: str,
    source: str | os.PathLike[str] | nn.Module | dict[str, Any],
    check: Check,
    access: Access,
) -> None:
    if isinstance(source, (BrickCollection, dict)):
        model.update({name: source})
        return
    if isinstance(source, Brick):
        path = f"{name}/head" if f"{name}/head" in model.bricks() else name
        if path != name and "task" in source.metadata:
            model.update(_head(model, name, source.metadata, {"head": source}.get))
        else:
            model.update({path: source})
        return
    if isinstance(source, nn.Module):
        model.update({_brick_at(model, name): _around(source, model, name)})
        return
    files, path = open_source(source, access=access)
    info = find_brick(files, path or name)
    location = f"{info.files.location}/{info.path}.json"
    is_weighed = (info.weights or {}).get("sha256") is not None
    with well_formed(location):
        refuse(f"'{source}'", fits(info, model, check if is_weighed or check != "exact" else "input"), check)
    if not is_weighed:  # timm stored it, or it has no weights
        info = with_hashes(info)
        refuse(f"'{source}'", fits(info, model, check), check)
    if info.task is not None and not name.endswith("/head"):
        model.update(_head(model, name, info.config, partial(_sibling, info)))
    elif info.provides is not None:
        model.update({name: _restored(info), **_normalisation(model, info)})
    else:
        model.update({_brick_at(model, name): _restored(info)})


def _head(
    model: BrickCollection, name: str, facts: Mapping[str, Any], find: Callable[[str], Brick | None]
) -> dict[str, Any]:
    """What a head changes: its bricks with weights, as they are found, and the others anew if they have to be.

    Args:
        model: Where it is to go.
        name: Its place there.
        facts: Its task, variant and labels.
        find: From the name of a brick with weights, in its place, to that brick.
    """
    provides = model[BACKBONE].metadata.get("provides") if BACKBONE in model else None
    if provides is None:
        raise BrickInputError(f"swap '{name}'", "a model with a backbone that says what it provides", "none")
    labels = tuple(facts["labels"])
    recipe = HeadRecipe(name, facts["task"], facts["variant"], len(labels), labels)
    made = head_bricks(BackboneSpec.from_json(provides), recipe)
    weighted = [key for key, brick in made.items() if brick.module is not None and brick.module.state_dict()]
    found = {key: brick for key in weighted if (brick := find(key)) is not None}
    before = model[name] if name in model else None  # noqa: SIM401 - a ModuleDict has no `get`
    if isinstance(before, BrickCollection) and _is_alike(before, facts):
        return {join(name, key): brick for key, brick in found.items()}
    return {name: {**made, **found}}


def _is_alike(before: BrickCollection, facts: Mapping[str, Any]) -> bool:
    """Whether the head that is here has the same classes and the same form."""
    head = before["head"].metadata if "head" in before else {}
    return all(head.get(key) == facts.get(key) for key in ("task", "variant", "labels"))


def _sibling(info: BrickInfo, key: str) -> Brick:
    """A brick of the same place as a stored head, or that head."""
    path = join(prefix_of(info.path), key)
    return _restored(info if path == info.path else find_brick(info.files, path))


def _restored(info: BrickInfo) -> Brick:
    names = [f"{info.path}.json", *([f"{info.path}{SUFFIX}"] if info.weights else [])]
    info.files.fetch(names)
    return restore(info)


def _normalisation(model: BrickCollection, info: BrickInfo) -> dict[str, Any]:
    """The preprocessor for the images that another backbone was trained on, where the model has ours."""
    images = (info.provides or {})["input"]
    before = model.bricks().get("preprocessor")
    if not isinstance(before, BrickModule) or before.module_name != "Preprocessor":
        return {}
    part = create_part("normalize", mean=list(images["mean"]), std=list(images["std"]))
    return {"preprocessor": type(before)(part, input_names=before.input_names, output_names=before.output_names)}


def _brick_at(model: BrickCollection, name: str) -> str:
    """The path of the brick that a name means: itself, or the head in that place."""
    if name in model.bricks():
        return name
    if f"{name}/head" in model.bricks():
        return f"{name}/head"
    if any(is_inside(path, name) for path in model.bricks()) or "/" not in name:
        raise BrickNotFoundError(f"No brick '{name}' in the model. There are: {', '.join(model.bricks())}.")
    return name


def _around(module: nn.Module, model: BrickCollection, name: str) -> Brick:
    """A brick with the names of the one that is replaced, around another module."""
    path = _brick_at(model, name)
    before = model[path]
    if not isinstance(before, BrickModule):
        expected = "a brick around a module, to take the names from"
        raise BrickInputError(f"swap '{path}'", expected, type(before).__name__)
    settings = before.settings
    brick = type(before)(module, **settings)
    brick.metadata = dict(before.metadata)
    brick.provenance = (
        replace(before.provenance, dtypes={}) if before.provenance else None
    )  # it is that brick, with other weights
    return brick
