"""Labels of a task: plain ones by name, and numbers or texts with the type that they must have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import UnionType
from typing import Any, final, get_args

from brickyard.errors import BrickInputError

_TYPES = (bool, int, float, str)


@final
@dataclass(frozen=True)
class Metadata:
    """A label that is a number or a text a picture, such as a distance or an age.

    In a batch numbers are a tensor (B,) or (B, ...) and texts a list of B.

    Args:
        name: Letters, digits and underscores.
        typ: `bool`, `int`, `float`, `str`, a class made from `str`, or several of them: `float | int`.

    Raises:
        BrickInputError: Another name or type.
    """

    name: str
    typ: type | UnionType

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isidentifier()):
            raise BrickInputError("Metadata", "a name of letters, digits and underscores", repr(self.name))
        for typ in self._types:
            if not (isinstance(typ, type) and issubclass(typ, _TYPES)):
                expected = "bool, int, float, str, or several of them"
                raise BrickInputError(f"Metadata '{self.name}'", expected, getattr(typ, "__name__", repr(typ)))

    @property
    def kinds(self) -> list[str]:
        """The names of the types, of those made from `str` that of `str`."""
        return sorted({next(kind.__name__ for kind in _TYPES if issubclass(typ, kind)) for typ in self._types})

    @property
    def _types(self) -> tuple[Any, ...]:
        return get_args(self.typ) or (self.typ,)


@final
@dataclass(frozen=True)
class Label:
    """One label of one head: the name of its value in a batch, and the types of its items, None where any will do."""

    value: str
    kinds: tuple[str, ...] | None = None


def labels_of(required: Collection[str | Metadata], head: str) -> dict[str, Label]:
    """The labels of a head, by the name that they have in its task.

    The only plain label is `targets/<head>`. Of several plain ones each is `targets/<head>/<label>`, and so is every
    `Metadata`; thus a task that adds `Metadata` to those of another one leaves its label where it was.

    Args:
        required: The task's `required_labels`.
        head: The head's place.
    """
    plain = sorted(label for label in required if isinstance(label, str))
    values = {label: f"targets/{head}" if len(plain) == 1 else f"targets/{head}/{label}" for label in plain}
    typed = sorted((label for label in required if isinstance(label, Metadata)), key=lambda label: label.name)
    return {
        **{label: Label(value) for label, value in values.items()},
        **{label.name: Label(f"targets/{head}/{label.name}", tuple(label.kinds)) for label in typed},
    }
