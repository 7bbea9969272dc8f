"""What the hub counts, and what can go wrong on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Request:
    """One request that the hub answered. `up` and `down` are the bytes of the bodies, without headers."""

    method: str
    path: str
    status: int
    up: int
    down: int


class Recording(list[Request]):
    """Requests in the order in which they were answered."""

    @property
    def up(self) -> int:
        return sum(request.up for request in self)

    @property
    def down(self) -> int:
        return sum(request.down for request in self)

    def matching(self, path: str = "*", method: str = "*") -> Recording:
        """Those whose path and method fit patterns of `fnmatch`, e.g. `*/resolve/*`."""
        return Recording(one for one in self if fnmatchcase(one.path, path) and fnmatchcase(one.method, method))


@dataclass(kw_only=True)
class Fault:
    """What goes wrong, at which requests. A request meets the first fault that fits it, and only that one.

    Args:
        path: Pattern of `fnmatch` for the path, e.g. `*/resolve/*` or `*/commit/main`.
        method: Pattern for the method. A download is a HEAD, and then a GET for the content.
        times: How many requests; `math.inf` for all to come.
        status: Answers this status instead, and does nothing.
        code: The X-Error-Code of that answer, e.g. "GatedRepo".
        delay: Seconds to wait before the request is looked at.
        cut_off: Closes the connection in the middle of the answer's body, or without an answer where it has no body.
            What the request asked for is done.
        corrupt: Inverts the answer's body, which keeps its size.
        headers: Headers of the answer, in place of its own.
        drip: Seconds between one byte of the answer's body and the next.
        before: Called before the request is looked at; a commit made here comes before the requested one.
    """

    path: str = field(kw_only=False)
    method: str = "*"
    times: float = 1
    status: int = 0
    code: str = ""
    delay: float = 0.0
    cut_off: bool = False
    corrupt: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    drip: float = 0.0
    before: Callable[[], object] = lambda: None

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and fnmatchcase(path, self.path) and fnmatchcase(method, self.method)
