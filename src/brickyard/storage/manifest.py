"""The manifest `bricks.json`: the bricks of a model in order, with their hashes; and strict JSON parsing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, final

from brickyard.core.names import check_brick_names
from brickyard.errors import BrickGraphError, BrickIntegrityError, BrickMismatchError, UnsafeBrickError

FORMAT = 1
MANIFEST = "bricks.json"
PUBLISHED = re.compile(r"(?P<model>hf://[\w.-]+/[\w.-]+@[0-9a-f]{40}|zoo://[\w.-]+)/(?P<path>\w+(/\w+)*)", re.A)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST = 200  # characters of a brick's path, valid on every file system
_MAX_BRICKS = 1000  # of a model
_LARGEST = 2**60  # bytes of a file
_DEEPEST = 50  # levels of a JSON
MAX_NUMBER = 1_000_000  # the largest argument of a part: a larger one could fill the memory


@final
@dataclass(frozen=True)
class Entry:
    """One brick of a manifest.

    Attributes:
        at: The name in this folder, or the reference `hf://user/repo@<commit>/seg/head` or `zoo://<model>/seg/head`.
        config: The sha256 of the JSON file.
        weights: The sha256 of the weights, None without weights.
        size: The size of the weights in bytes.
        brick: The JSON itself, only in a lock for a brick that is not published.
    """

    at: str
    config: str
    weights: str | None = None
    size: int = 0
    brick: Mapping[str, Any] | None = None

    @property
    def is_published(self) -> bool:
        """Whether it is a reference to another model."""
        return "://" in self.at

    def same_as(self, other: Entry | None) -> bool:
        """Return whether both have the same content."""
        return other is not None and (self.config, self.weights) == (other.config, other.weights)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        values = {"at": self.at, "config": self.config, "weights": self.weights, "size": self.size}
        return values if self.brick is None else {**values, "brick": dict(self.brick)}


@final
@dataclass(frozen=True)
class Manifest:
    """The content of `bricks.json`.

    Attributes:
        collection: The name of the model, None if it has none.
        bricks: The entry of each brick by path, in order.
        extra: Fields that this version does not know, which are kept.
    """

    collection: str | None
    bricks: Mapping[str, Entry]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        bricks = {path: entry.to_json() for path, entry in self.bricks.items()}
        return {"format": FORMAT, "collection": self.collection, **self.extra, "bricks": bricks}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], location: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            UnsafeBrickError: A name that leaves the folder, two names that differ only in case, a reference that is not
                pinned, or more than 1000 bricks.
            BrickMismatchError: A field is absent or of another type.
        """
        try:
            if len(values["bricks"]) > _MAX_BRICKS:
                found = len(values["bricks"])
                raise UnsafeBrickError(f"{location}: expected at most {_MAX_BRICKS} bricks, found {found}.")
            bricks = {path: _entry(entry) for path, entry in values["bricks"].items()}
            collection = values["collection"]
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise BrickMismatchError(f"{location} is not as brickyard writes it", [problem]) from error
        check_stored_names([*bricks, *dict.fromkeys(e.at for e in bricks.values() if not e.is_published)], location)
        for path, entry in bricks.items():
            if entry.is_published and not PUBLISHED.fullmatch(entry.at):
                expected = "hf://user/repo@<commit of 40 hex digits>/path or zoo://<model>/path"
                raise UnsafeBrickError(f"{location}: brick '{path}' is at '{entry.at}', expected {expected}.")
        extra = {key: value for key, value in values.items() if key not in ("format", "collection", "bricks")}
        return cls(collection if isinstance(collection, str) else None, bricks, extra)


def check_stored_names(paths: Iterable[str], location: str) -> None:
    """Check that the paths of bricks are valid names of files in a model's folder.

    Raises:
        UnsafeBrickError: An invalid path, or two that differ only in case.
    """
    paths = list(paths)
    try:
        check_brick_names(paths)
    except BrickGraphError as error:
        raise UnsafeBrickError(f"{location}: {error}") from None
    for path in paths:
        if f"{path}.json".lower() == MANIFEST or len(path) > _LONGEST:
            expected = f"at most {_LONGEST} characters, and another name than the manifest's"
            raise UnsafeBrickError(f"{location}: '{path[:_LONGEST]}' cannot name a stored brick: expected {expected}.")


def _entry(values: Mapping[str, Any]) -> Entry:
    entry = Entry(values["at"], values["config"], values["weights"], values["size"], values.get("brick"))
    hashes = [entry.config] if entry.weights is None else [entry.config, entry.weights]
    if (
        not isinstance(entry.at, str)
        or not (isinstance(entry.size, int) and 0 <= entry.size < _LARGEST)
        or not isinstance(entry.brick, dict | None)
        or not all(isinstance(value, str) and _SHA256.fullmatch(value) for value in hashes)
    ):
        raise TypeError(f"expected names, sha256 hashes in hex and a size, found {str(dict(values))[:200]}")
    return entry


def dump(values: Mapping[str, Any]) -> str:
    """Format JSON values as this package writes them: equal values give equal bytes.

    Raises:
        ValueError: A number is not finite.
        TypeError: A value is not one of JSON.
    """
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse(content: bytes, location: str) -> dict[str, Any]:
    """Read the JSON of a manifest or of a brick.

    Raises:
        BrickIntegrityError: The content is not JSON.
        UnsafeBrickError: It is not an object with a format number, its format is newer than this version, or as for
            `parse_values`.
    """
    values = parse_values(content, location)
    if type(values.get("format")) is not int:
        raise UnsafeBrickError(f"{location}: expected an object with a format number, found {str(values)[:60]!r}.")
    if values["format"] < 1:
        raise UnsafeBrickError(f"{location} has format {values['format']}, expected 1 or more.")
    if values["format"] > FORMAT:
        raise UnsafeBrickError(
            f"{location} has format {values['format']}, this version reads up to {FORMAT}. Upgrade brickyard."
        )
    return values


def parse_values(content: bytes, location: str) -> dict[str, Any]:
    """Read a JSON object that may be hostile.

    Raises:
        BrickIntegrityError: The content is not JSON.
        UnsafeBrickError: It is not an object, a key occurs twice, it is nested too deeply, or it has invalid numbers or
            characters.
    """
    try:
        values = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
        if content.count(b"[") + content.count(b"{") > _DEEPEST:
            _check_depth(values)
        if b"\\u" in content:
            dump(values).encode()  # a lone surrogate can be read, but not written
    except RecursionError:
        raise UnsafeBrickError(f"{location} is nested too deeply, expected at most {_DEEPEST} levels.") from None
    except UnsafeBrickError as error:
        raise UnsafeBrickError(f"{location}: {error}") from None
    except ValueError as error:
        raise BrickIntegrityError(f"{location} is not JSON ({error}). Download it again.") from None
    if not isinstance(values, dict):
        raise UnsafeBrickError(f"{location}: expected a JSON object, found {str(values)[:60]!r}.")
    return values


def check_bounded(values: Mapping[str, Any] | list[Any], location: str, most: float = MAX_NUMBER) -> None:
    """Refuse arguments with a number that could exhaust the memory.

    Args:
        values: The arguments.
        location: The file that they are from, for errors.
        most: The largest absolute value.

    Raises:
        UnsafeBrickError: Such a number.
    """
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, dict | list):
            check_bounded(value, location, most)
        elif isinstance(value, int | float) and not -most <= value <= most:
            raise UnsafeBrickError(f"{location}: expected arguments in [-{most}, {most}], found {str(value)[:40]}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UnsafeBrickError(f"the key {twice[:_LONGEST]!r} occurs twice in one object.")
    return values


def _check_depth(values: Any) -> None:
    level = [values]
    for _ in range(_DEEPEST):
        nested = [
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        ]
        level = [child for children in nested for child in children]
        if not level:
            return
    raise RecursionError


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _no_number(text[:40])
    return number


def _no_number(text: str) -> None:
    raise UnsafeBrickError(f"{text} is not a number in JSON.")
