"""Build stored bricks again for other classes or another backbone, with the arguments that they were stored with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from brickyard.core.brick import Brick
from brickyard.core.graph import flatten
from brickyard.core.specs import BackboneSpec
from brickyard.parts.registry import part_of
from brickyard.recipe.build import head_bricks
from brickyard.recipe.recipe import HeadRecipe
from brickyard.storage.config import OF_WEIGHTS, describe, make_brick
from brickyard.storage.manifest import dump, parse

_OF_TRAINING = ("trainable", "trained")  # fields that fresh weights have not
_ABSENT = object()


def rebuild(stored: Mapping[str, Brick], before: Mapping[str, Brick], after: Mapping[str, Brick]) -> dict[str, Brick]:
    """Build bricks with fresh weights, from three versions: whatever was stored otherwise than by default stays so.

    A detection head with other anchors than its task builds by default, for example, keeps these with another number of
    classes, and a decoder keeps its threshold.

    Args:
        stored: The stored bricks; those that are not in `after` are left out.
        before: The bricks as their recipe builds them by default, on any device.
        after: The bricks as the wanted recipe builds them by default, on any device.

    Returns:
        The bricks of `after`, under the same keys, without paths. Each field and argument in which `stored` differs
        from `before` is that of `stored`, every other that of `after`.

    Raises:
        UnsafeBrickError: A brick wraps an object that is not a registered part.
        BrickMismatchError: The stored arguments do not go together with the wanted ones.
    """
    return {key: _rebuilt(key, stored.get(key), before.get(key), brick) for key, brick in after.items()}


def rebuild_head(
    stored: Mapping[str, Brick], before: tuple[BackboneSpec, HeadRecipe], after: tuple[BackboneSpec, HeadRecipe]
) -> dict[str, Brick]:
    """Build a head again; see `rebuild`.

    Args:
        stored: The stored bricks, or some of them, by their names within the head.
        before: The backbone that the head was built for, and its recipe.
        after: The backbone and the recipe that are wanted.

    Returns:
        The bricks by their names within the head.
    """
    with torch.device("meta"):  # nothing is initialised only to be read
        defaults = [flatten(head_bricks(*each)) for each in (before, after)]
    return rebuild(stored, *defaults)


def differs(brick: Brick, other: Brick) -> bool:
    """Return whether two bricks of registered parts are built otherwise; their metadata does not count."""
    return part_of(other.wrapped) is not None and _config(brick) != _config(other)


def _rebuilt(path: str, stored: Brick | None, before: Brick | None, after: Brick) -> Brick:
    config = _config(after)
    if stored is not None and before is not None:
        config = _merged(_config(stored), _config(before), config)
        config |= {key: value for key, value in stored.metadata.items() if key not in OF_WEIGHTS}
    return make_brick(config, f"brick '{path}'")


def _config(brick: Brick) -> dict[str, Any]:
    """Return the JSON of a brick without metadata, as it is after reading: tuples are lists."""
    fields = {key: value for key, value in describe(brick).items() if key not in {*_OF_TRAINING, *brick.metadata}}
    return parse(dump(fields).encode(), f"brick '{brick.path}'")


def _merged(stored: Any, before: Any, after: Any) -> Any:
    """Return `after` with what `stored` has otherwise than `before`; dictionaries are merged key by key."""
    if not all(isinstance(each, dict) for each in (stored, before, after)):
        return after if stored == before else stored
    keys = dict.fromkeys([*after, *stored])
    values = {key: _merged(stored.get(key, _ABSENT), before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in keys}
    return {key: value for key, value in values.items() if value is not _ABSENT}
