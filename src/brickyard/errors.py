"""Every error of the package.

BrickError
├── UnknownNameError        (ValueError)   an unknown model, task, head, part or tag
├── BrickGraphError         (ValueError)   a cycle, two producers of one name, a name without producer
├── MissingInputError       (KeyError)     a call without a value that a brick reads
├── BrickInputError         (ValueError)   an image, label or file of the wrong shape, type, range or kind
├── BrickNotFoundError      (LookupError)  an absent brick or manifest
├── BrickMismatchError      (ValueError)   stored and expected do not fit; `.problems` lists each
├── BrickIntegrityError     (OSError)      a truncated file, or one with another hash than stated
├── UnsafeBrickError        (ValueError)   pickle, an unknown type, a bad name, a format too new
├── HubConnectionError      (ConnectionError)  the Hub does not respond, or not as expected
├── PushConflictError                      the same brick changed in the repo
└── MissingExtraError       (ImportError)  an optional dependency that is not installed

Errors with several arguments keep them as `args` and format the message in `__str__`, so that they can be pickled (data
loader workers, process pools).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_MAX_CHARACTERS = 4000  # of a message: names and values in it may come from a damaged file
_MAX_PROBLEMS = 20  # in a message


class BrickError(Exception):
    """The base class of all errors that brickyard raises."""

    def __str__(self) -> str:
        text, half = self._text(), _MAX_CHARACTERS // 2
        return text if len(text) <= _MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"

    def _text(self) -> str:
        return super().__str__()


class UnknownNameError(BrickError, ValueError):
    """An unknown name.

    Args:
        kind: What the name was looked up as, such as "model" or "task".
        name: The name.
        known: The known names; the message has the nearest ones.
        hint: A further sentence on how to fix it.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        super().__init__(kind, name, tuple(known), hint)

    def _text(self) -> str:
        kind, name, known, hint = self.args
        return " ".join(filter(None, [f"Unknown {kind} '{name}'.", nearest(name, known), hint]))


class BrickGraphError(BrickError, ValueError):
    """The bricks do not form a graph that can run as requested."""


class MissingInputError(BrickError, KeyError):
    """A call without a value that a brick reads.

    Args:
        missing: Each absent name with the path of the brick that reads it.
        given: The names that were passed.
        hint: A further sentence on how to fix it.
    """

    def __init__(self, missing: Sequence[tuple[str, str]], given: Iterable[str], hint: str = "") -> None:
        super().__init__(tuple(missing), tuple(given), hint)

    def _text(self) -> str:
        missing, given, hint = self.args
        wants = "; ".join(f"brick '{path}' reads '{name}'" for name, path in missing)
        close = [f"For '{name}': {near}" for name, _ in missing if (near := nearest(name, given))]
        return " ".join(filter(None, [f"Missing inputs: {wants}. Given: {sorted(given)}.", *close, hint]))


class BrickInputError(BrickError, ValueError):
    """A value that a brick or function cannot take.

    Args:
        location: The path of the brick, the name of the part or argument, or the file.
        expected: The expected value.
        found: The actual value.
        hint: A sentence on how to fix it.
    """

    def __init__(self, location: str, expected: str, found: str, hint: str = "") -> None:
        super().__init__(location, expected, found, hint)

    def _text(self) -> str:
        location, expected, found, hint = self.args
        return f"{location}: expected {expected}, found {found}. {hint}".strip()


class BrickNotFoundError(BrickError, LookupError):
    """There is no such brick or manifest."""

    @classmethod
    def of(cls, name: str, location: str, known: Iterable[str]) -> BrickNotFoundError:
        """Return the error for an unknown path.

        Args:
            name: The path or prefix that was looked up.
            location: Where it was looked up: "the model", a folder or a repo.
            known: The paths of the bricks.
        """
        return cls(f"No brick '{name}' in {location}. {nearest(name, known)}")


class BrickMismatchError(BrickError, ValueError):
    """Stored and expected values do not fit.

    Args:
        what: A phrase for the object that was refused.
        problems: One sentence per mismatch.
    """

    def __init__(self, what: str, problems: Iterable[str]) -> None:
        super().__init__(what, tuple(problems))

    @property
    def problems(self) -> list[str]:
        """One sentence per mismatch."""
        return list(self.args[1])

    def _text(self) -> str:
        more = len(self.problems) - _MAX_PROBLEMS
        shown = [*self.problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        return "\n  - ".join([f"{self.args[0]}:", *shown])


class BrickIntegrityError(BrickError, OSError):
    """A stored file is damaged."""


class UnsafeBrickError(BrickError, ValueError):
    """A file or name that is refused, because using it could run code, leave its folder or exhaust the machine."""


class HubConnectionError(BrickError, ConnectionError):
    """The Hub, or another server of weights, does not respond, is busy or too slow, or cuts the connection.

    The message names the file and its source.
    """


class PushConflictError(BrickError):
    """The same brick changed in the repo since it was loaded."""


class MissingExtraError(BrickError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: The feature that needs the dependency.
        extra: The extra of brickyard that installs it, None if there is none.
        package: The package to install then.
    """

    def __init__(self, feature: str, extra: str | None = None, package: str | None = None) -> None:
        super().__init__(feature, extra, package)

    def _text(self) -> str:
        feature, extra, package = self.args
        if extra is None:
            return f"{feature} needs the package '{package}'. Install it with: pip install {package}"
        return f"{feature} needs the extra '{extra}'. Install it with: pip install 'brickyard[{extra}]'"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known names nearest to `name`, or with the first dozen if none is near."""
    names = sorted(set(known))
    close = get_close_matches(name, names, n=5, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(repr(other) for other in close)}?"
    shown = ", ".join(repr(other) for other in names[:12])
    return f"There are: {shown}{', ...' if len(names) > 12 else ''}." if names else ""
