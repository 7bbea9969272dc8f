"""The factory: from a name or a folder to a model."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from timm.models import adapt_input_conv

from brickyard.backbone import BrickBackbone
from brickyard.brick import Brick
from brickyard.build import build, recipe_of
from brickyard.collection import BrickCollection
from brickyard.errors import BrickInputError, UnknownNameError
from brickyard.modules import BrickModule
from brickyard.parts.backbones import TimmNames, timm_has_weights, timm_pretrained
from brickyard.recipe import HeadRecipe, Recipe, parse_heads, parse_name
from brickyard.store import load_pretrained
from brickyard.tasks.registry import TASKS, task_variants
from brickyard.zoo import check_tag, find_in_zoo, zoo_folders

_LOCAL = "local-dir:"
_log = logging.getLogger(__name__)

Numbers = int | Mapping[str, int] | None
Labels = Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True)
class _Changes:
    """What a caller wants other than it is stored; see `create_model`."""

    num_classes: Numbers = None
    labels: Labels = None
    in_chans: int | None = None
    loss_weights: Mapping[str, float] | Literal["learned"] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def create_model(
    name: str | None = None,
    *,
    backbone: str | None = None,
    tasks: Mapping[str, str] | None = None,
    pretrained: bool = False,
    num_classes: Numbers = None,
    labels: Labels = None,
    in_chans: int | None = None,
    loss_weights: Mapping[str, float] | Literal["learned"] | None = None,
    **options: Any,
) -> BrickCollection:
    """Assemble a model.

    Args:
        name: `<backbone>_<task>[-<head>][_<task>...][.<weights tag>]`, e.g. "resnet18_cls"; or "local-dir:<folder>"
            for a saved model, which always brings its weights.
        backbone: Instead of a name, timm's name of the backbone, with
        tasks: its heads: {"age": "cls", "breed": "cls", "parts": "seg-unet"}, so that several may be of one task.
        pretrained: Take trained weights: from the zoo that the package carries, else from a folder named in
            `BRICKYARD_ZOO`, else timm's own for the backbone, with fresh heads (a classifier of timm's comes along
            unless another number of classes is asked for). The log says which it took.
        num_classes: For a model of one task a number, otherwise {task: number}; by default that of the weights.
        labels: The class names, like `num_classes`.
        in_chans: Channels of the image, by default those of the weights; pretrained weights are adapted as timm does.
        loss_weights: Add the heads' losses to one, `loss`: {head: weight}, 1 where a head is not named, or "learned"
            for uncertainty weighting (Kendall et al. 2018).
        **options: Further arguments of `timm.create_model`, e.g. `drop_path_rate=0.1`.

    Returns:
        The model, in training mode. It reads `image`, (B, C, H, W) float in [0, 1] or uint8.

    Raises:
        UnknownNameError: No such model, task, head or weights; the nearest names are shown.
        BrickInputError: `num_classes` or `labels` do not fit the heads.
        BrickNotFoundError, BrickMismatchError, BrickIntegrityError, UnsafeBrickError: A folder that cannot be loaded.
    """
    changes = _Changes(num_classes, labels, in_chans, loss_weights, options)
    if name is not None and name.startswith(_LOCAL) and backbone is None and tasks is None:
        return _loaded(name.removeprefix(_LOCAL), changes)
    recipe = _recipe(name, backbone, tasks)
    wanted = _changed(recipe, changes)
    folder = None if name is None else find_in_zoo(recipe.stem, recipe.weights)
    if folder is None:
        check_tag(recipe)
    if not pretrained:
        return build(wanted)
    if folder is None:
        return _from_timm(wanted)
    _log.info("'%s': weights from %s", recipe.name, folder)
    return _loaded(folder, changes)


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
    """Every backbone with every combination of tasks."""
    counts = range(1, len(TASKS) + 1)
    suffixes = ["_".join(tasks) for count in counts for tasks in itertools.combinations(TASKS, count)]
    return (f"{backbone}_{suffix}" for backbone in TimmNames() for suffix in suffixes)


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


def _changed(recipe: Recipe, changes: _Changes) -> Recipe:
    """The recipe with what the caller asked for."""
    if changes.in_chans is not None and changes.in_chans < 1:
        raise BrickInputError("in_chans", "1 or more", f"{changes.in_chans}")
    numbers = _by_head(recipe, changes.num_classes, "num_classes", int)
    names = _by_head(recipe, changes.labels, "labels", Sequence)
    return replace(
        recipe,
        heads=tuple(_changed_head(head, numbers.get(head.name), names.get(head.name)) for head in recipe.heads),
        in_chans=recipe.in_chans if changes.in_chans is None else changes.in_chans,
        loss_weights=recipe.loss_weights if changes.loss_weights is None else changes.loss_weights,
        options={**recipe.options, **changes.options},
    )


def _changed_head(head: HeadRecipe, number: int | None, names: Sequence[str] | None) -> HeadRecipe:
    if number is not None and number < 1:
        raise BrickInputError(f"num_classes of '{head.name}'", "1 or more", f"{number}")
    if names is not None:
        if not names or isinstance(names, str):
            raise BrickInputError(f"labels of '{head.name}'", "a list of names", repr(names))
        head = replace(head, labels=tuple(names), num_classes=len(names) if number is None else number)
    elif number is not None and number != head.num_classes:
        head = replace(head, num_classes=number, labels=None)  # the names of other classes go with them
    return head


def _by_head(recipe: Recipe, given: Any, argument: str, kind: type) -> Mapping[str, Any]:
    """What was given for each head: {head: value}, or one value where there is one head."""
    names = [head.name for head in recipe.heads]
    if given is None:
        return {}
    if isinstance(given, kind) and not isinstance(given, (str, bool)) and len(names) == 1:
        return {names[0]: given}
    if isinstance(given, Mapping) and set(given) <= set(names):
        return given
    raise BrickInputError(argument, f"a dictionary with some of the heads {names}", repr(given))


def _loaded(folder: str | Path, changes: _Changes) -> BrickCollection:
    """The model of a folder, or one with what the caller asked for and the weights of it that fit."""
    stored = load_pretrained(folder)
    recipe = recipe_of(stored)
    if recipe is None:
        if changes == _Changes():
            return stored
        raise BrickInputError(str(folder), "no other arguments: it has no timm backbone to build anew", "some")
    wanted = _changed(recipe, changes)
    if wanted == recipe:
        return stored
    if wanted.in_chans != recipe.in_chans != 3:
        expected = f"{recipe.in_chans}, as stored: only weights for 3 channels can be adapted"
        raise BrickInputError("in_chans", expected, f"{wanted.in_chans}")
    model = build(wanted)
    sources = stored.bricks()
    in_chans = None if wanted.in_chans == recipe.in_chans else wanted.in_chans
    for path, brick in model.bricks().items():
        if (
            brick.module is not None
            and brick.module.state_dict()
            and not _take_over(brick, sources.get(path), in_chans)
        ):
            _warn_fresh(path)
    return model


def _take_over(brick: Brick, stored: Brick | None, in_chans: int | None) -> bool:
    """Give a new brick the weights of the stored one, and what is known of them, where they fit; tell whether.

    The first convolution of a backbone is adapted to other `in_chans`, where they are not None.
    """
    if brick.module is None or stored is None or stored.module is None:
        return False
    weights = stored.module.state_dict()
    if isinstance(brick, BrickBackbone) and in_chans is not None:
        first = brick.module.pretrained_cfg["first_conv"]  # type: ignore[index]
        for key in [f"{convolution}.weight" for convolution in ([first] if isinstance(first, str) else first)]:
            weights[key] = adapt_input_conv(in_chans, weights[key])
    shapes = {key: tensor.shape for key, tensor in brick.module.state_dict().items()}
    if shapes != {key: tensor.shape for key, tensor in weights.items()}:
        return False
    brick.module.load_state_dict(weights)
    brick.metadata = {**stored.metadata, **brick.metadata}
    if isinstance(brick, BrickModule) and isinstance(stored, BrickModule) and not stored.trainable:
        brick.freeze()
    return True


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
            _warn_fresh(head.name)
    return model


def _warn_fresh(what: str) -> None:
    warnings.warn(f"'{what}' starts with fresh weights: nothing that was trained fits it.", stacklevel=4)
