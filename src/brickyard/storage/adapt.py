"""What a caller wants other than a name or a stored model has it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

from timm.models import adapt_input_conv

from brickyard.collection import BrickCollection
from brickyard.core.backbone import BrickBackbone
from brickyard.core.brick import Brick
from brickyard.core.modules import BrickModule
from brickyard.errors import BrickInputError
from brickyard.parts.backbones import BackboneSpec
from brickyard.recipe.build import build, head_bricks, loss_sum, recipe_of
from brickyard.recipe.names import HeadRecipe, Recipe

Numbers = int | Mapping[str, int] | None
Labels = Sequence[str] | Mapping[str, Sequence[str]] | None
LossWeights = Mapping[str, float] | Literal["learned"] | None


@final
@dataclass(frozen=True)
class Changes:
    """What a caller wants other than it is stored; see `create_model`."""

    num_classes: Numbers = None
    labels: Labels = None
    in_chans: int | None = None
    loss_weights: LossWeights = None
    options: Mapping[str, Any] = field(default_factory=dict)


def changed(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe with what the caller asked for.

    Raises:
        BrickInputError: `num_classes`, `labels` or `in_chans` do not fit the heads, or make no sense.
    """
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


def adapted(stored: BrickCollection, changes: Changes, what: str) -> BrickCollection:
    """A stored model, or what the caller asked for with the weights of it that fit; a warning names the others.

    Heads that change are made anew in it, and all else stays. Another backbone is another model, with the bricks that
    somebody added to this one.

    Raises:
        BrickInputError: As for `changed`, or the model has no timm backbone.
    """
    recipe = recipe_of(stored)
    if recipe is None:
        if changes == Changes():
            return stored
        raise BrickInputError(what, "no other arguments: it has no timm backbone to build anew", "some")
    wanted = changed(recipe, changes)
    if wanted == recipe:
        return stored
    before = stored.bricks()
    if (wanted.in_chans, wanted.options) == (recipe.in_chans, recipe.options):
        spec = BackboneSpec.from_json(stored["backbone"].metadata["provides"])
        heads = [head for head, now in zip(wanted.heads, recipe.heads, strict=True) if head != now]
        stored.update({head.name: head_bricks(spec, head) for head in heads})
        stored.update(loss_sum(wanted) if wanted.loss_weights != recipe.loss_weights else {})
        model, in_chans = stored, None
    else:
        if wanted.in_chans != recipe.in_chans != 3:
            expected = f"{recipe.in_chans}, as stored: only weights for 3 channels can be adapted"
            raise BrickInputError("in_chans", expected, f"{wanted.in_chans}")
        model, in_chans = build(wanted), None if wanted.in_chans == recipe.in_chans else wanted.in_chans
        model.update({path: brick for path, brick in before.items() if path not in model})
    for path, brick in model.bricks().items():
        is_new = brick.module is not None and brick.module.state_dict() and brick is not before.get(path)
        if is_new and brick.provenance is None and not _take_over(brick, before.get(path), in_chans):
            warn_fresh(path)
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


def warn_fresh(what: str) -> None:
    """Tell that nothing trained was found for a head or brick."""
    warnings.warn(f"'{what}' starts with fresh weights: nothing that was trained fits it.", stacklevel=5)
