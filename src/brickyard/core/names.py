"""The names of bricks and of the values between them.

A brick's *path* is where it stands in the nested dictionary (`seg/head`); its *place* is the dictionary that holds it
(`seg`, and "" at the root). Value names are absolute (`features`, `targets/seg`) or relative to the place (`./logits`,
`../features`). A name to be read can pick from a list or tuple (`features[-1]`, `features[1:3]`) and can be optional
(`mask?`). Names are parsed once, when a brick is made, and applied at each call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from brickyard.errors import BrickGraphError, BrickInputError

ALL = "__all__"

_BRICK_NAME = re.compile(r"[A-Za-z0-9_]+")
_REFERENCE = re.compile(r"(?P<name>[^\[\]?]+)(?:\[(?P<index>-?\d+|(?:-?\d+)?:(?:-?\d+)?)\])?(?P<optional>\?)?")


def join(place: str, name: str) -> str:
    """The path of `name` in `place`."""
    return f"{place}/{name}" if place else name


def prefix_of(path: str) -> str:
    """The place of the brick at `path`: "seg" for "seg/head", "" for "backbone"."""
    return path.rpartition("/")[0]


def prefixes(path: str) -> list[str]:
    """The places around a path: "a/b/c" -> ["a/b", "a"]."""
    parts = path.split("/")
    return [place for count in range(len(parts) - 1, 0, -1) if (place := "/".join(parts[:count]))]


def by_name(values: Any) -> dict[str, Any]:
    """A dictionary of its own with values by their names.

    Raises:
        BrickInputError: They are something else, as a tensor without a name.
    """
    if isinstance(values, Mapping):
        return dict(values)
    raise BrickInputError("inputs", "values by name", f"a {type(values).__name__}", "Pass {'image': images}.")


def is_inside(path: str, top: str) -> bool:
    """Whether `path` is `top` or below it."""
    return path == top or path.startswith(f"{top}/")


def resolve(name: str, path: str) -> str:
    """Make a relative value name absolute.

    Args:
        name: `./x` and `../x` are taken from the place of the brick; any other name is absolute already.
        path: The brick's path; with "" (it has no place yet) every name stays as it is.

    Raises:
        BrickGraphError: The name climbs above the root, or ends there.
    """
    if not path or not name.startswith("."):
        return name
    place = prefix_of(path)
    parts = place.split("/") if place else []
    steps = [step for step in name.split("/") if step not in (".", "")]
    for step in steps:
        if step != "..":
            parts.append(step)
        elif parts:
            parts.pop()
        else:
            steps = []  # above the root
            break
    if not steps or steps[-1] == "..":
        raise BrickGraphError(
            f"Failed to resolve input name. Unable to resolve '{name}' in brick '{path}' to an actual name: "
            f"it must end in a name inside the collection, and the brick is in '{place or 'the root'}'."
        )
    return "/".join(parts)


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """A value to read: its name, what to pick from it, and whether it may be absent."""

    name: str
    index: int | slice | None = None
    optional: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a name and nothing else."""
        return self.index is None and not self.optional and self.name != ALL

    def read(self, values: Mapping[str, Any], brick: str) -> Any:
        """Take the value out of `values`.

        Raises:
            KeyError: It is absent and not optional.
            BrickInputError: There is nothing to pick from, or too little.
        """
        if self.name == ALL:
            return dict(values)
        value = values.get(self.name) if self.optional else values[self.name]
        if self.index is None or value is None:
            return value
        if not isinstance(value, (list, tuple)):
            raise BrickInputError(f"brick '{brick}'", f"a list or tuple as '{self.name}'", type(value).__name__)
        if isinstance(self.index, int) and not -len(value) <= self.index < len(value):
            expected = f"an item {self.index} in '{self.name}'"
            raise BrickInputError(f"brick '{brick}'", expected, f"{len(value)} items")
        return value[self.index]


def parse_reference(text: str, brick: str) -> Reference:
    """Parse an input name such as `image`, `features[-1]`, `features[1:3]` or `mask?`.

    Raises:
        BrickGraphError: It has another form.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise BrickGraphError(
            f"Brick '{brick}' cannot read '{text}': expected a name, with an index or a slice behind it "
            "(features[-1], features[1:3]) where it picks from a list, and '?' where it may be absent (mask?)."
        )
    return Reference(match["name"], _parse_index(match["index"]), match["optional"] is not None)


def _parse_index(text: str | None) -> int | slice | None:
    if text is None:
        return None
    if ":" not in text:
        return int(text)
    start, stop = text.split(":")
    return slice(int(start) if start else None, int(stop) if stop else None)


def check_brick_names(paths: Iterable[str]) -> None:
    """Refuse paths that could not be stored as files on every system.

    Raises:
        BrickGraphError: A part of a path has other characters than letters, digits and underscores, or two paths are
            alike but for case.
    """
    seen: dict[str, str] = {}
    for path in paths:
        if not all(_BRICK_NAME.fullmatch(part) for part in path.split("/")):
            raise BrickGraphError(
                f"'{path}' cannot name a brick: expected letters, digits and underscores (a nested dictionary makes "
                "the '/' of a path)."
            )
        other = seen.setdefault(path.lower(), path)
        if other != path:
            raise BrickGraphError(f"Bricks '{other}' and '{path}' differ only in case: rename one of them.")
    for path in seen.values():
        for place in prefixes(path):
            if place.lower() in seen:
                raise BrickGraphError(
                    f"'{path}' stands inside '{seen[place.lower()]}', which is a brick: rename one of them."
                )
