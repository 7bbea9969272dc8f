"""Compute the bricks of a head with some of its classes, or with other names for them.

Which arguments and rows of a head depend on its classes follows from building it with one class more. All others are
those of the present bricks, so that a head with its own anchors, thresholds or losses keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import nn

from brickyard.core.brick import Brick
from brickyard.core.graph import flatten
from brickyard.core.modules import BrickModule
from brickyard.core.names import is_inside
from brickyard.core.provenance import Provenance
from brickyard.core.specs import HeadInfo, check_class_names
from brickyard.errors import BrickInputError, BrickMismatchError, BrickNotFoundError, UnknownNameError
from brickyard.parts.registry import Part, create_part, part_of
from brickyard.recipe.build import head_bricks
from brickyard.recipe.inspection import heads_of, provided_by
from brickyard.recipe.recipe import HeadRecipe
from brickyard.storage.class_rows import rows_by_name
from brickyard.storage.weights import weights_sha256
from brickyard.storage.wrappers import plain_state, unwrapped
from brickyard.tasks.registry import get_task

_MEASURED = ("metrics", "measured")  # metadata of all classes together
_UNUSED = "\0"  # a class name that no head has
_INNER = "wraps"  # the argument of an adapter that has the type and arguments of the part inside


def sliced_head(bricks: Mapping[str, Brick], name: str, names: Sequence[str]) -> dict[str, Brick]:
    """Return the bricks of a head that predicts some of its classes; see `BrickCollection.keep_classes`."""
    head = _head_of(bricks, name)
    labels = check_class_names(names, f"'{name}'")
    for label in labels:
        if label not in head.labels:
            raise UnknownNameError(f"class of '{name}'", label, head.labels)
        if head.labels.count(label) > 1:
            hint = "Give them names that differ first, with `rename_labels`."
            raise BrickInputError(f"classes of '{name}'", "names of one class", f"several classes {label!r}", hint)
    return _with_labels(bricks, name, labels, is_sliced=True) if labels != head.labels else {}


def renamed_head(bricks: Mapping[str, Brick], name: str, names: Sequence[str] | Mapping[str, str]) -> dict[str, Brick]:
    """Return the bricks of a head with other names for its classes; see `BrickCollection.rename_labels`."""
    head = _head_of(bricks, name)
    if isinstance(names, Mapping):
        for label in names:
            if label not in head.labels:
                raise UnknownNameError(f"class of '{name}'", label, head.labels)
        names = [names.get(label, label) for label in head.labels]
    labels = check_class_names(names, f"'{name}'")
    if len(labels) != len(head.labels):
        raise BrickInputError(f"labels of '{name}'", f"{len(head.labels)}, one for each class", f"{len(labels)}")
    return _with_labels(bricks, name, labels, is_sliced=False) if labels != head.labels else {}


def _head_of(bricks: Mapping[str, Brick], name: str) -> HeadInfo:
    heads = heads_of(bricks)
    if name not in heads:
        raise BrickNotFoundError.of(name, "the heads of the model", heads)
    if not get_task(heads[name].task).has_classes:
        raise BrickInputError(f"'{name}'", "a head that predicts classes", f"one of the task '{heads[name].task}'")
    return heads[name]


@final
@dataclass(frozen=True)
class _Plan:
    """How a head is built for its present classes, for the wanted ones, and for one class more.

    Attributes:
        now, wanted, larger: The part of each brick by path.
    """

    now: Mapping[str, Part]
    wanted: Mapping[str, Part]
    larger: Mapping[str, Part]

    def arguments(self, path: str, part: Part) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a part's arguments for the wanted classes, and for one class more.

        Args:
            path: The path of the brick.
            part: The present part, with arguments of its own, or another part than the task builds there.
        """
        now = self.now.get(path)
        if now is not None and now.type == part.type:
            of_classes = [key for key in now.args if now.args[key] != self.larger[path].args[key]]
            return (
                {**part.args, **{key: self.wanted[path].args[key] for key in of_classes}},
                {**part.args, **{key: self.larger[path].args[key] for key in of_classes}},
            )
        return self._by_value(part.args, self.wanted), self._by_value(part.args, self.larger)

    def _by_value(self, args: Mapping[str, Any], other: Mapping[str, Part]) -> dict[str, Any]:
        """Return arguments whose name and value are those of an argument for the classes with its other value."""
        known = [(key, each.args[key], other[path].args[key]) for path, each in self.now.items() for key in each.args]
        changed = {}
        for key, value in args.items():
            if key == _INNER:
                changed[key] = {**value, "args": self._by_value(value["args"], other)}
            else:
                found = (after for name, before, after in known if name == key and before == value and after != value)
                changed[key] = next(found, value)
        return changed


def _plan(bricks: Mapping[str, Brick], name: str, labels: Sequence[str]) -> _Plan:
    backbone, head = provided_by(bricks), heads_of(bricks)[name]
    if backbone is None:
        expected = "a model with a backbone that declares what it provides"
        raise BrickInputError(f"classes of '{name}'", expected, "one without")

    def parts(names: Sequence[str]) -> dict[str, Part]:
        recipe = HeadRecipe(name, head.task, head.variant, len(names), tuple(names))
        with torch.device("meta"):
            built = flatten(head_bricks(backbone, recipe), name)
        return {path: part for path, brick in built.items() if (part := part_of(brick.wrapped)) is not None}

    return _Plan(parts(head.labels), parts(labels), parts([*head.labels, _UNUSED]))


def _with_labels(bricks: Mapping[str, Brick], name: str, labels: Sequence[str], *, is_sliced: bool) -> dict[str, Brick]:
    """Return the bricks of a head that change with its labels, by path."""
    plan, stored = _plan(bricks, name, labels), heads_of(bricks)[name].labels
    changed = {}
    for path, brick in bricks.items():
        if not is_inside(path, name):
            continue
        part = _part_of(brick)
        wanted, larger = plan.arguments(path, part)
        has_rows = is_sliced and larger != part.args and brick.module is not None and bool(brick.module.state_dict())
        if wanted != part.args or has_rows:
            with torch.random.fork_rng():
                built = create_part(part.type, **wanted)
            _copy_state(built, brick, (labels, stored, Part(part.type, larger)) if has_rows else None)
            new = type(brick)(built, **brick.settings)
            _inherit(new, brick)
        elif brick.head is not None:
            new = brick.at_path(path)
        else:
            continue
        changed[path] = new
        new.provenance = _derived(new, brick)
        if brick.head is not None:
            new.head = replace(brick.head, labels=tuple(labels))
            if is_sliced:
                new.metadata = {key: value for key, value in brick.metadata.items() if key not in _MEASURED}
    return changed


def _part_of(brick: Brick) -> Part:
    part = part_of(unwrapped(brick.wrapped))
    if part is None:
        expected = "a registered part, which can be built for other classes"
        hint = "Build it with `create_part`, or remove it from the model first."
        raise BrickInputError(f"brick '{brick.path}'", expected, brick.module_name, hint)
    return part


def _copy_state(built: Any, brick: Brick, rows: tuple[Sequence[str], Sequence[str], Part] | None) -> None:
    """Copy the weights of a brick, on their device and in their precision, to a part for other classes.

    Args:
        built: The part.
        brick: The brick.
        rows: The labels of the part, those of the brick, and its part for one class more; None to copy every row.
    """
    if not isinstance(built, nn.Module) or brick.module is None:
        return
    state = {key: tensor.detach() for key, tensor in plain_state(brick.module).items()}
    for key, tensor in built.state_dict(keep_vars=True).items():
        if key in state:
            tensor.data = tensor.data.to(state[key].device, state[key].dtype)
    if rows is not None:
        labels, stored, larger = rows
        with torch.device("meta"):
            shapes = create_part(larger.type, **larger.args).state_dict()
        found = rows_by_name(built.state_dict(), state, shapes, labels, stored)
        if found is None:
            raise BrickMismatchError(f"The classes of '{brick.path}' cannot be separated", ["it has no row for each"])
        state = found
    built.load_state_dict(state)


def _inherit(brick: Brick, before: Brick) -> None:
    """Note on a brick with another part what is known about the one before."""
    brick.head, brick.provides, brick.metadata = before.head, before.provides, dict(before.metadata)
    if isinstance(brick, BrickModule) and isinstance(before, BrickModule) and not before.trainable:
        brick.freeze()


def _derived(brick: Brick, before: Brick) -> Provenance | None:
    """Return the provenance of a brick that was made of another one: it is published nowhere.

    Rows of weights that are as they were stored were trained on the same backbone, and have the same source.
    """
    provenance = before.provenance
    if provenance is None:
        return None
    config = provenance.config
    if provenance.weights and before.module is not None and brick.module is not None:
        size = sum(tensor.nbytes for tensor in brick.module.state_dict().values())
        if weights_sha256(before.module, provenance.dtypes) == provenance.weights:
            config = {**config, "weights": {"sha256": weights_sha256(brick.module, provenance.dtypes), "size": size}}
    return replace(provenance, config=config, sha256="", uri=None, before=provenance.published)
