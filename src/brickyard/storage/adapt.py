"""Change a recipe, or a stored model, to what the caller of `create_model` asked for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from brickyard.core.backbone import BrickBackbone
from brickyard.core.brick import Brick
from brickyard.core.graph import flatten, replace_inside, set_paths
from brickyard.core.modules import BrickModule
from brickyard.core.specs import KeypointSpec, check_class_names
from brickyard.errors import BrickInputError
from brickyard.parts.backbones import adapt_to_channels
from brickyard.recipe.build import build, loss_sum
from brickyard.recipe.inspection import provided_by, recipe_of
from brickyard.recipe.recipe import HeadRecipe, Recipe
from brickyard.storage.class_rows import rows_by_name
from brickyard.storage.rebuild import rebuild, rebuild_head

NumClasses = int | Mapping[str, int] | None
Labels = Sequence[str] | Mapping[str, Sequence[str]] | None
KeypointsOfHead = int | Sequence[str] | KeypointSpec
Keypoints = KeypointsOfHead | Mapping[str, KeypointsOfHead] | None
LossWeights = Mapping[str, float] | Literal["learned"] | None


@final
@dataclass(frozen=True)
class Changes:
    """The arguments of `create_model` that change a named or stored model."""

    num_classes: NumClasses = None
    labels: Labels = None
    in_chans: int | None = None
    loss_weights: LossWeights = None
    rename: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    keypoints: Keypoints = None


def change_recipe(recipe: Recipe, changes: Changes) -> Recipe:
    """Return the recipe with the changes.

    Raises:
        BrickInputError: `num_classes`, `labels`, `keypoints` or `in_chans` are out of range, or do not fit the heads.
    """
    if changes.in_chans is not None and changes.in_chans < 1:
        raise BrickInputError("in_chans", "1 or more", f"{changes.in_chans}")
    numbers = _by_head(recipe, changes.num_classes, "num_classes", int)
    names = _by_head(recipe, changes.labels, "labels", Sequence)
    points = _by_head(recipe, changes.keypoints, "keypoints", (int, Sequence, KeypointSpec))
    heads = tuple(_change_head(head, numbers.get(head.name), names.get(head.name)) for head in recipe.heads)
    return replace(
        recipe,
        heads=tuple(_change_keypoints(head, points.get(head.name)) for head in heads),
        in_chans=recipe.in_chans if changes.in_chans is None else changes.in_chans,
        loss_weights=recipe.loss_weights if changes.loss_weights is None else changes.loss_weights,
        options={**recipe.options, **changes.options},
    )


def change_bricks(bricks: Mapping[str, Brick], changes: Changes, what: str) -> dict[str, Brick]:
    """Return the bricks of a model with the changes; bricks that had to be built again have fresh weights.

    Heads that change are built again, and all other bricks stay. Another number of channels, or other options of timm,
    make another backbone, and so another model, with the further bricks of this one.

    Args:
        bricks: The bricks by path.
        changes: The changes.
        what: The name of the model, for errors.

    Raises:
        BrickInputError: As for `change_recipe`, or the backbone, which is not timm's, cannot be built as wanted.
    """
    recipe = recipe_of(bricks)
    if recipe is None:
        if changes == Changes():
            return dict(bricks)
        raise BrickInputError(what, "no further arguments, since the model has no backbone with a spec", "some")
    wanted = change_recipe(recipe, changes)
    if wanted == recipe:
        return dict(bricks)
    if not recipe.backbone and (wanted.in_chans, wanted.options) != (recipe.in_chans, recipe.options):
        found = f"in_chans={wanted.in_chans}, {dict(wanted.options)}"
        raise BrickInputError(what, "no arguments for the backbone, since it is not timm's", found)
    if (wanted.in_chans, wanted.options) == (recipe.in_chans, recipe.options):
        return _replace_heads(bricks, recipe, wanted)
    with torch.device("meta"):
        defaults = build(recipe), build(wanted)
    built = set_paths(rebuild(bricks, *defaults))
    return {**built, **{path: brick for path, brick in bricks.items() if path not in built}}


def change_trained(stored: Mapping[str, Brick], changes: Changes, what: str) -> dict[str, Brick]:
    """Return the bricks of a trained model with the changes and the weights that fit.

    Arguments and errors are those of `change_bricks`; a brick without trained weights gives a warning.

    Raises:
        BrickInputError: `in_chans` differs, and the stored weights are not for 3 channels.
    """
    recipe = recipe_of(stored)
    in_chans = None if recipe is None or changes.in_chans == recipe.in_chans else changes.in_chans
    if recipe is not None and in_chans is not None and recipe.in_chans != 3:
        expected = f"{recipe.in_chans}, as stored: only weights for 3 channels can be adapted"
        raise BrickInputError("in_chans", expected, f"{in_chans}")
    bricks = change_bricks(stored, changes, what)
    for path, brick in bricks.items():
        before = stored.get(path)
        if brick is before or brick.module is None or not brick.module.state_dict():
            continue
        if before is not None and _has_other_classes(brick, before, changes.rename):
            is_known = _copy_rows(brick, before, stored)
        else:
            is_known = _copy_weights(brick, before, in_chans)
        if not is_known:
            warn_fresh(path)
    return bricks


def _has_other_classes(brick: Brick, stored: Brick, is_renamed: bool) -> bool:
    """Return whether the rows of a stored head are those of other classes, or of the same in another order."""
    if brick.head is None or stored.head is None or brick.head.labels == stored.head.labels:
        return False
    before = stored.head.labels
    is_unnamed = before == tuple(map(str, range(len(before)))) and not set(brick.head.labels) & set(before)
    return len(brick.head.labels) != len(before) or not (is_renamed or is_unnamed)


def _copy_rows(brick: Brick, before: Brick, stored: Mapping[str, Brick]) -> bool:
    """Copy what a new head shares with a stored one of other classes; return whether there is anything.

    That is the rows of the classes that both have, and every tensor that does not depend on the classes.

    Args:
        brick: The new head.
        before: The stored head.
        stored: All stored bricks.
    """
    if brick.head is None or before.head is None or brick.module is None or before.module is None:
        return False
    labels, known = brick.head.labels, before.head.labels
    rows = rows_by_name(
        brick.module.state_dict(), before.module.state_dict(), _with_one_class_more(before, stored), labels, known
    )
    if rows is None:
        return False
    brick.module.load_state_dict(rows)
    fresh = [label for label in labels if label not in known]
    if not fresh:
        _inherit(brick, before, before.metadata)
        return True
    what = f"{fresh[:5]}{' ...' if len(fresh) > 5 else ''}"
    warnings.warn(f"'{brick.path}' starts with fresh weights for the classes {what}.", stacklevel=6)
    metadata = {key: value for key, value in before.metadata.items() if key not in ("metrics", "measured")}
    brick.metadata = {**metadata, **brick.metadata}  # it is not frozen, since fresh rows must be trained
    if len(fresh) < len(labels):
        brick.head = replace(brick.head, trained=before.head.trained is not False)
    return True


def _with_one_class_more(head: Brick, stored: Mapping[str, Brick]) -> dict[str, Tensor]:
    """Return the state that a stored head would have with one class more, on the meta device."""
    recipe, backbone = recipe_of(stored), provided_by(stored)
    name, _, key = head.path.rpartition("/")
    before = next((each for each in recipe.heads if each.name == name), None) if recipe else None
    if backbone is None or before is None or before.num_classes is None:
        return {}
    after = replace(before, num_classes=before.num_classes + 1, labels=None)
    try:
        with torch.device("meta"):
            module = rebuild_head(_inside(stored, name), (backbone, before), (backbone, after))[key].module
    except BrickInputError:  # the number of classes is fixed, so no weights belong to one of them
        module = head.module
    return {} if module is None else module.state_dict()


def warn_fresh(what: str) -> None:
    """Warn that a head or brick starts with random weights."""
    warnings.warn(f"'{what}' starts with fresh weights: no trained weights fit it.", stacklevel=5)


def _replace_heads(stored: Mapping[str, Brick], recipe: Recipe, wanted: Recipe) -> dict[str, Brick]:
    """Return the stored bricks with the heads that differ built again, in the order of the stored model."""
    backbone = provided_by(stored)
    if backbone is None:
        raise BrickInputError("backbone", "a stored backbone that declares what it provides", "one that does not")
    heads = [(head, now) for head, now in zip(wanted.heads, recipe.heads, strict=True) if head != now]
    tree: dict[str, Any] = {
        head.name: rebuild_head(_inside(stored, head.name), (backbone, now), (backbone, head)) for head, now in heads
    }
    if wanted.loss_weights != recipe.loss_weights:
        tree |= loss_sum(wanted)
    return replace_inside(stored, tree, set_paths(flatten(tree)))


def _inside(bricks: Mapping[str, Brick], head: str) -> dict[str, Brick]:
    """Return the bricks of a head by their names within it."""
    return {path.removeprefix(f"{head}/"): brick for path, brick in bricks.items() if path.startswith(f"{head}/")}


def _change_head(head: HeadRecipe, number: int | None, names: Sequence[str] | None) -> HeadRecipe:
    if number is not None and number < 1:
        raise BrickInputError(f"num_classes of '{head.name}'", "1 or more", f"{number}")
    if names is not None:
        return replace(
            head,
            labels=check_class_names(names, f"'{head.name}'"),
            num_classes=len(names) if number is None else number,
        )
    if number is not None and number != head.num_classes:
        return replace(head, num_classes=number, labels=None)  # the names belong to the other classes
    return head


def _change_keypoints(head: HeadRecipe, given: KeypointsOfHead | None) -> HeadRecipe:
    if given is None:
        return head
    if isinstance(given, int) and given < 1:
        raise BrickInputError(f"keypoints of '{head.name}'", "1 or more", f"{given}")
    if isinstance(given, int):
        given = KeypointSpec.numbered(given)
    return replace(head, keypoints=given if isinstance(given, KeypointSpec) else KeypointSpec(tuple(given)))


def _by_head(recipe: Recipe, given: Any, argument: str, kind: type | tuple[type, ...]) -> Mapping[str, Any]:
    """Return an argument by head: it is {head: value}, or one value for the only head."""
    names = [head.name for head in recipe.heads]
    if given is None:
        return {}
    if isinstance(given, kind) and not isinstance(given, (str, bool)) and len(names) == 1:
        return {names[0]: given}
    if isinstance(given, Mapping) and set(given) <= set(names):
        return given
    raise BrickInputError(argument, f"a dictionary with some of the heads {names}", repr(given))


def _copy_weights(brick: Brick, stored: Brick | None, in_chans: int | None) -> bool:
    """Copy the weights and metadata of a stored brick to a new one if they fit; return whether they do.

    The first convolution of a backbone is adapted to `in_chans` channels, unless that is None.
    """
    if brick.module is None or stored is None or stored.module is None:
        return False
    weights = stored.module.state_dict()
    if isinstance(brick, BrickBackbone) and in_chans is not None:
        weights = adapt_to_channels(brick.module, weights, in_chans)
    shapes = {key: tensor.shape for key, tensor in brick.module.state_dict().items()}
    if shapes != {key: tensor.shape for key, tensor in weights.items()}:
        return False
    brick.module.load_state_dict(weights)
    _inherit(brick, stored, stored.metadata)
    return True


def _inherit(brick: Brick, stored: Brick, metadata: Mapping[str, Any]) -> None:
    """Note what is known about the stored weights that a brick has taken.

    Args:
        brick: The brick; its own metadata stays.
        stored: The stored brick.
        metadata: The metadata of the stored brick that describes the weights as they were taken.
    """
    brick.metadata = {**metadata, **brick.metadata}
    if brick.head is not None and stored.head is not None:
        brick.head = replace(brick.head, trained=stored.head.trained is not False)
    if isinstance(brick, BrickModule) and isinstance(stored, BrickModule) and not stored.trainable:
        brick.freeze()
