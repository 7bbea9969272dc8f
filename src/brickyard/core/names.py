"""The names of bricks and of the values between them.

The *path* of a brick is its keys in the nested dictionary (`seg/head`); its *prefix* is the path of the dictionary that
contains it (`seg`, "" for the root). Names of values are absolute (`features`, `targets/seg`) or relative to the prefix
(`./logits`, `../features`). An input name can index a list or tuple (`features[-1]`, `features[1:3]`, `features[2,5]`)
and can be optional (`mask?`). Names are parsed once, when a brick is created, and applied at each call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from brickyard.errors import BrickGraphError, BrickInputError

ALL = "__all__"

_BRICK_NAME = re.compile(r"[A-Za-z0-9_]+")
_REFERENCE = re.compile(
    r"(?P<name>[^\[\]?]+)(?:\[(?P<index>-?\d+(?:,-?\d+)*|(?:-?\d+)?:(?:-?\d+)?)\])?(?P<optional>\?)?"
)


def join(prefix: str, name: str) -> str:
    """Return the path of `name` under `prefix`."""
    return f"{prefix}/{name}" if prefix else name


def prefix_of(path: str) -> str:
    """Return the prefix of a path: "seg" for "seg/head", "" for "backbone"."""
    return path.rpartition("/")[0]


def prefixes(path: str) -> list[str]:
    """Return every prefix of a path, the longest first: "a/b/c" -> ["a/b", "a"]."""
    parts = path.split("/")
    return [prefix for count in range(len(parts) - 1, 0, -1) if (prefix := "/".join(parts[:count]))]


def by_name(values: Any) -> dict[str, Any]:
    """Return a copy of a dictionary of values by name.

    Raises:
        BrickInputError: The values are not a dictionary.
    """
    if isinstance(values, Mapping):
        return dict(values)
    raise BrickInputError(
        "inputs", "a dictionary of values by name", f"a {type(values).__name__}", "Pass {'image': images}."
    )


def is_inside(path: str, top: str) -> bool:
    """Return whether `path` is `top` or below it."""
    return path == top or path.startswith(f"{top}/")


def resolve(name: str, path: str) -> str:
    """Make a relative value name absolute.

    Args:
        name: `./x` and `../x` are relative to the prefix of the brick; any other name is absolute.
        path: The path of the brick; "" (it is in no collection) leaves every name as it is.

    Raises:
        BrickGraphError: The name leads to the root or above.
    """
    if not path or not name.startswith("."):
        return name
    prefix = prefix_of(path)
    parts = prefix.split("/") if prefix else []
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
            f"it must end in a name inside the collection, and the brick is in '{prefix or 'the root'}'."
        )
    return "/".join(parts)


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed input name.

    Attributes:
        name: The name of the value.
        index: The index, indices or slice of a list or tuple, None for the whole value.
        optional: Whether the value may be absent, and is None then.
    """

    name: str
    index: int | tuple[int, ...] | slice | None = None
    optional: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is a name without index, slice or question mark."""
        return self.index is None and not self.optional and self.name != ALL

    def read(self, values: Mapping[str, Any], brick: str) -> Any:
        """Return the value from `values`.

        Raises:
            KeyError: The value is absent and not optional.
            BrickInputError: It is not a list or tuple, or is too short for the index.
        """
        if self.name == ALL:
            return dict(values)
        value = values.get(self.name) if self.optional else values[self.name]
        if self.index is None or value is None:
            return value
        if not isinstance(value, (list, tuple)):
            raise BrickInputError(f"brick '{brick}'", f"a list or tuple as '{self.name}'", type(value).__name__)
        if isinstance(self.index, slice):
            return value[self.index]
        indices = self.index if isinstance(self.index, tuple) else (self.index,)
        for index in indices:
            if not -len(value) <= index < len(value):
                expected = f"an item {index} in '{self.name}'"
                raise BrickInputError(f"brick '{brick}'", expected, f"{len(value)} items")
        return tuple(value[index] for index in indices) if isinstance(self.index, tuple) else value[self.index]

    def items(self, count: int) -> tuple[int, ...]:
        """Return which of the `count` items of a list or tuple are read, counted from the first.

        Raises:
            IndexError: An index is out of range.
        """
        if self.index is None or isinstance(self.index, slice):
            return tuple(range(count)[self.index or slice(None)])
        indices = self.index if isinstance(self.index, tuple) else (self.index,)
        return tuple(range(count)[index] for index in indices)


def parse_reference(text: str, brick: str) -> Reference:
    """Parse an input name such as `image`, `features[-1]`, `features[1:3]` or `mask?`.

    Raises:
        BrickGraphError: The name has another form.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise BrickGraphError(
            f"Brick '{brick}' cannot read '{text}': expected a name, optionally followed by an index, "
            "several, or a slice (features[-1], features[2,5], features[1:3]), and by '?' if the value may be absent "
            "(mask?)."
        )
    return Reference(match["name"], _parse_index(match["index"]), match["optional"] is not None)


def _parse_index(text: str | None) -> int | tuple[int, ...] | slice | None:
    if text is None:
        return None
    if "," in text:
        return tuple(map(int, text.split(",")))
    if ":" not in text:
        return int(text)
    start, stop = text.split(":")
    return slice(int(start) if start else None, int(stop) if stop else None)


def check_brick_names(paths: Iterable[str]) -> None:
    """Check that paths can be stored as files on every system.

    Raises:
        BrickGraphError: A path has other characters than letters, digits, underscores and "/", two paths differ only in
            case, or one is inside another.
    """
    seen: dict[str, str] = {}
    for path in paths:
        if not all(_BRICK_NAME.fullmatch(part) for part in path.split("/")):
            raise BrickGraphError(
                f"'{path}' cannot name a brick: expected letters, digits and underscores (use nested dictionaries "
                "for the '/' of a path)."
            )
        other = seen.setdefault(path.lower(), path)
        if other != path:
            raise BrickGraphError(f"Bricks '{other}' and '{path}' differ only in case: rename one of them.")
    for path in seen.values():
        for prefix in prefixes(path):
            if prefix.lower() in seen:
                raise BrickGraphError(
                    f"'{path}' is inside '{seen[prefix.lower()]}', which is a brick: rename one of them."
                )
