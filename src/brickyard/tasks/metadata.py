"""Labels of a task: plain ones by name, and `Metadata`, whose values are checked for their type."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import UnionType
from typing import Any, final, get_args

from brickyard.data.label_kinds import TARGETS, LabelKind
from brickyard.errors import BrickInputError

_TYPES = (bool, int, float, str)


@final
@dataclass(frozen=True)
class Metadata:
    """A label that is a number or a text per image, such as a distance or an age.

    In a batch numbers are a tensor (B,) or (B, ...) and texts a list of length B.

    Args:
        name: Letters, digits and underscores.
        typ: `bool`, `int`, `float`, `str`, a subclass of `str`, or a union of them: `float | int`.

    Raises:
        BrickInputError: The name or type is another one.
    """

    name: str
    typ: type | UnionType

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isidentifier()):
            raise BrickInputError("Metadata", "a name of letters, digits and underscores", repr(self.name))
        for typ in self._types:
            if not (isinstance(typ, type) and issubclass(typ, _TYPES)):
                expected = "bool, int, float, str, or a union of them"
                raise BrickInputError(f"Metadata '{self.name}'", expected, getattr(typ, "__name__", repr(typ)))

    @property
    def types(self) -> list[str]:
        """The names of the types; a subclass of `str` is "str"."""
        return sorted({next(base.__name__ for base in _TYPES if issubclass(typ, base)) for typ in self._types})

    @property
    def kind(self) -> LabelKind:
        """`LabelKind.TEXT` if the values can be texts, else `LabelKind.METADATA`."""
        return LabelKind.TEXT if "str" in self.types else LabelKind.METADATA

    @property
    def _types(self) -> tuple[Any, ...]:
        return get_args(self.typ) or (self.typ,)


@final
@dataclass(frozen=True)
class Label:
    """A label of a head.

    Attributes:
        value: The name of its value in a batch.
        types: The types of its items, None where they are not checked.
    """

    value: str
    types: tuple[str, ...] | None = None


def labels_of(required: Collection[str | Metadata], head: str) -> dict[str, Label]:
    """Return the labels of a head, by their names in its task.

    A single plain label is `targets/<head>`. Of several plain labels each is `targets/<head>/<label>`, and so is every
    `Metadata`. So a task that adds `Metadata` to the labels of another task does not rename the plain label.

    Args:
        required: The task's `required_labels`.
        head: The prefix of the head, "seg".
    """
    plain = sorted(label for label in required if isinstance(label, str))
    values = {label: f"{TARGETS}{head}" if len(plain) == 1 else f"{TARGETS}{head}/{label}" for label in plain}
    typed = sorted((label for label in required if isinstance(label, Metadata)), key=lambda label: label.name)
    return {
        **{label: Label(value) for label, value in values.items()},
        **{label.name: Label(f"{TARGETS}{head}/{label.name}", tuple(label.types)) for label in typed},
    }
