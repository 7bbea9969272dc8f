"""Every error of the package.

BrickError
├── UnknownNameError        (ValueError)   a model, task, head, part or tag that nobody knows
├── BrickGraphError         (ValueError)   a cycle, two producers of one name, a name that nobody makes
├── MissingInputError       (KeyError)     a call without a value that a brick reads
├── BrickInputError         (ValueError)   an image, label or file of the wrong shape, type, range or kind
├── BrickNotFoundError      (LookupError)  a brick or manifest that is not where it should be
├── BrickMismatchError      (ValueError)   stored and expected do not fit; `.problems` lists each
├── BrickIntegrityError     (OSError)      a file cut short or with other content than its hash says
├── UnsafeBrickError        (ValueError)   pickle, an unknown type, a bad name, a format too new
├── PushConflictError                      somebody else changed the same brick
└── MissingExtraError       (ImportError)  an optional dependency that is not installed

Errors that are built from parts keep those parts as `args` and write the text in `__str__`, so that they survive
pickling (data loader workers, process pools).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class BrickError(Exception):
    """The root of every error that brickyard raises itself."""


class UnknownNameError(BrickError, ValueError):
    """Nobody knows this name.

    Args:
        kind: What was looked for, e.g. "model" or "task".
        name: The name as it was given.
        known: The names there are; the nearest ones are shown.
        hint: One more sentence on what to do.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        super().__init__(kind, name, tuple(known), hint)

    def __str__(self) -> str:
        kind, name, known, hint = self.args
        return " ".join(filter(None, [f"Unknown {kind} '{name}'.", nearest(name, known), hint]))


class BrickGraphError(BrickError, ValueError):
    """The bricks do not form a graph that can be run as asked."""


class MissingInputError(BrickError, KeyError):
    """A call lacks a value that a brick reads.

    Args:
        missing: Each absent name with the path of the brick that reads it.
        given: The names that the call did bring.
        hint: One more sentence on what to do.
    """

    def __init__(self, missing: Sequence[tuple[str, str]], given: Iterable[str], hint: str = "") -> None:
        super().__init__(tuple(missing), tuple(given), hint)

    def __str__(self) -> str:
        missing, given, hint = self.args
        wants = "; ".join(f"brick '{path}' reads '{name}'" for name, path in missing)
        close = [f"For '{name}': {near}" for name, _ in missing if (near := nearest(name, given))]
        return " ".join(filter(None, [f"Missing inputs: {wants}. Given: {sorted(given)}.", *close, hint]))


class BrickInputError(BrickError, ValueError):
    """A value that a brick cannot take.

    Args:
        location: The brick's path, the part's name or the file.
        expected: What it takes.
        found: What it got.
        hint: What to do about it.
    """

    def __init__(self, location: str, expected: str, found: str, hint: str = "") -> None:
        super().__init__(location, expected, found, hint)

    def __str__(self) -> str:
        location, expected, found, hint = self.args
        return f"{location}: expected {expected}, found {found}. {hint}".strip()


class BrickNotFoundError(BrickError, LookupError):
    """A brick or a manifest is not where it should be."""


class BrickMismatchError(BrickError, ValueError):
    """What is stored and what is expected do not fit.

    Args:
        what: The thing that was refused.
        problems: One sentence for each mismatch.
    """

    def __init__(self, what: str, problems: Iterable[str]) -> None:
        super().__init__(what, tuple(problems))

    @property
    def problems(self) -> list[str]:
        """One sentence for each mismatch."""
        return list(self.args[1])

    def __str__(self) -> str:
        return "\n  - ".join([f"{self.args[0]}:", *self.problems])


class BrickIntegrityError(BrickError, OSError):
    """A stored file is not what its writer wrote."""


class UnsafeBrickError(BrickError, ValueError):
    """Something that is never read, because reading it could run code or leave its folder."""


class PushConflictError(BrickError):
    """Somebody else changed the same brick in the meantime."""


class MissingExtraError(BrickError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: What needs it.
        extra: The extra of the package that brings it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)

    def __str__(self) -> str:
        feature, extra = self.args
        return f"{feature} needs the extra '{extra}'. Install it with: pip install 'brickyard[{extra}]'"


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names nearest to `name`, or with the first dozen where none is near."""
    names = sorted(set(known))
    close = get_close_matches(name, names, n=5, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(repr(other) for other in close)}?"
    shown = ", ".join(repr(other) for other in names[:12])
    return f"There are: {shown}{', ...' if len(names) > 12 else ''}." if names else ""
