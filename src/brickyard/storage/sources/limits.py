"""Limits for the requests of huggingface_hub: how long it waits, how much it takes, and which names it accepts.

Its client waits without limit for some responses and as long as a server asks it to, takes any amount of content, and
uses the ETag of a response as the name of a file. The hooks of this module are set on the HTTP client that
huggingface_hub shares, and act only within `download` and `pushing`, in the thread that called them.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, final

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import get_session, httpx

from brickyard.errors import BrickIntegrityError, HubConnectionError, UnsafeBrickError

Result = TypeVar("Result")

COMMIT = re.compile(r"[0-9a-f]{40}")
UNBOUNDED = 2**60  # bytes
_ETAG = re.compile(r'(W/)?"?\w[\w.-]*"?', re.A)
_PATIENCE = 25.0  # seconds in which `_PROGRESS` bytes must arrive, or the whole file
_PROGRESS = 2**15
_TIMEOUT = 10.0  # seconds without a byte
_PUSH_TIMEOUT = 60.0  # the Hub may process a commit for a while before it responds
_BUSY = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
TRIES = 4
_CACHED = "; local_files_only=True loads what was downloaded before"
_FIRST_WAIT = 0.25  # seconds before the second try, doubled with every further one


class _BusyError(Exception):
    """The server responded that it cannot serve now; it may state after how many seconds."""

    def __init__(self, status: int, seconds: float | None) -> None:
        super().__init__(f"the server responded with the status {status}")
        self.seconds = seconds


class _UnansweredError(Exception):
    """A request got no response."""


@final
class _Limits:
    """What the requests within one block may take.

    Args:
        what: The file and repo, for errors.
        least, most: The size of the file in bytes.
        patience: Seconds in which the next `_PROGRESS` bytes must arrive.
        timeout: Seconds without a byte.
    """

    def __init__(self, what: str, least: int, most: int, patience: float, timeout: float) -> None:
        self.what, self.least, self.most, self.timeout = what, least, most, timeout
        self.is_download = patience < UNBOUNDED
        self.is_unanswered = False
        self._patience = patience
        self._deadline = time.monotonic() + patience
        self._received = 0

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            HubConnectionError: None is left.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _failed(self.what, f"less than {_PROGRESS} bytes arrived in {self._patience:.0f} seconds", _CACHED)
        return left

    def check_size(self, size: int) -> None:
        """Raise if a file is larger or smaller than expected."""
        if self.least <= size <= self.most:
            return
        if self.least == self.most:
            raise BrickIntegrityError(
                f"{self.what} has {size} bytes, expected {self.most}: it was not downloaded. Ask its author to push it "
                "again."
            )
        raise UnsafeBrickError(f"{self.what} is too large: {size} bytes or more, expected at most {self.most}.")

    def receive(self, count: int) -> None:
        """Count bytes that arrived."""
        self.left()
        self._received += count
        if self._received >= _PROGRESS:
            self._received = 0
            self._deadline = time.monotonic() + self._patience


_setting_hooks = threading.Lock()
_active: ContextVar[_Limits | None] = ContextVar("brickyard_hub_limits", default=None)


def download(
    what: str, call: Callable[[], Result], *, least: int = 0, most: int = UNBOUNDED, tries: int = TRIES
) -> Result:
    """Call a function that downloads a file, several times if the network or the server fails.

    Args:
        what: The file and repo, for errors.
        call: The function.
        least: The smallest size of the file in bytes.
        most: The largest size.
        tries: The number of tries.

    Raises:
        HubConnectionError: There is no connection, or the server is silent, too slow or busy, or cuts the connection.
        BrickIntegrityError: The file has another size than expected; nothing of it was downloaded.
        UnsafeBrickError: It is too large, or its ETag or commit is not a plain name.
        huggingface_hub's own errors for repos, revisions and tokens.
    """
    limits = _Limits(what, least, most, _PATIENCE, _TIMEOUT)
    wait = _FIRST_WAIT
    for attempt in range(1, tries + 1):
        try:
            with _hooked(limits):
                return call()
        except _BusyError as error:
            cause: Exception = error
            pause = wait if error.seconds is None else error.seconds
        except Exception as error:
            if not _is_of_the_network(error):
                raise
            cause, pause = error, wait
        if attempt == tries or pause >= limits.left():
            break
        time.sleep(pause)
        wait *= 2
    raise _failed(what, _reason(cause), _CACHED) from cause


@contextmanager
def pushing(what: str) -> Iterator[None]:
    """Let requests of huggingface_hub within the block end after a time without response.

    Raises:
        HubConnectionError: There is no connection, or the server is silent or cuts the connection.
    """
    try:
        with _hooked(_Limits(what, 0, UNBOUNDED, UNBOUNDED, _PUSH_TIMEOUT)):
            yield
    except httpx.RequestError as error:
        raise _failed(what, _reason(error)) from error


@contextmanager
def _hooked(limits: _Limits) -> Iterator[None]:
    with _setting_hooks:
        hooks = get_session().event_hooks
        for event, hook in (("request", _on_request), ("response", _on_response)):
            if hook not in hooks[event]:
                hooks[event].append(hook)
    limits.is_unanswered = False
    token = _active.set(limits)
    try:
        yield
    finally:
        _active.reset(token)


def _on_request(request: Any) -> None:
    limits = _active.get()
    if limits is None:
        return
    if limits.is_download:
        if limits.is_unanswered:
            # huggingface_hub would try again with other limits, and with a new client, which has no hooks.
            raise _UnansweredError("the server did not respond")
        request.headers["Accept-Encoding"] = "identity"  # so that sizes are those of the content
    limits.is_unanswered = True
    wait = min(limits.timeout, limits.left())
    request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), wait)


def _on_response(response: Any) -> None:
    limits = _active.get()
    if limits is None:
        return
    limits.is_unanswered = False
    if not limits.is_download:
        return
    status = response.status_code
    if status in _BUSY or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        seconds = response.headers.get("Retry-After", "")
        raise _BusyError(status, float(seconds) if seconds.isdecimal() else None)
    _check_names(response.headers, limits.what)
    _check_size(response, limits)
    response.stream = _counted(response.stream, limits)


def _check_names(headers: Mapping[str, str], what: str) -> None:
    """Refuse names that would lead out of the cache, in which huggingface_hub uses them for folders and files."""
    for name in ("ETag", constants.HUGGINGFACE_HEADER_X_LINKED_ETAG):
        if name in headers and not _ETAG.fullmatch(headers[name]):
            raise UnsafeBrickError(f"{what}: expected a plain name as {name}, found {headers[name][:100]!r}.")
    commit = headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
    if commit is not None and not COMMIT.fullmatch(commit):
        raise UnsafeBrickError(f"{what}: expected a commit of 40 hex digits, found {commit[:100]!r}.")


def _check_size(response: Any, limits: _Limits) -> None:
    """Refuse a file of another size before its content is read."""
    headers = response.headers
    sizes = [headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_SIZE)]
    if response.is_success and headers.get("Content-Encoding", "identity") != "identity":
        raise UnsafeBrickError(f"{limits.what} was sent compressed, which was not requested.")
    if response.status_code == httpx.codes.OK:  # a part of a file, or an error, has another length
        sizes.append(headers.get("Content-Length"))
    for size in sizes:
        if size is not None and size.isdecimal():
            limits.check_size(int(size))


def _counted(stream: Any, limits: _Limits) -> Any:
    """Return a stream of a response that keeps to the limits."""

    class Counted(httpx.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            total = 0
            for chunk in stream:
                limits.receive(len(chunk))
                total += len(chunk)
                if total > limits.most:
                    limits.check_size(total)
                yield chunk

        def close(self) -> None:
            stream.close()

    return Counted()


def _is_of_the_network(error: Exception) -> bool:
    if isinstance(error, LocalEntryNotFoundError):  # raised without a response that could be used
        return not isinstance(error.__cause__, HfHubHTTPError)
    is_size = type(error) is OSError and error.errno is None  # "Consistency check failed"
    return is_size or isinstance(error, (httpx.RequestError, _UnansweredError))


def _reason(error: Exception) -> str:
    """Return the first line of an error, with its type if the text alone may not tell."""
    text = str(error).split("\n")[0].rstrip(".")
    return text if isinstance(error, (_BusyError, _UnansweredError)) else f"{text} ({type(error).__name__})"


def _failed(what: str, reason: str, hint: str = "") -> HubConnectionError:
    check = "Check the network, HF_ENDPOINT and https://status.huggingface.co, and try again"
    return HubConnectionError(f"{what}: {reason}. {check}{hint}.")
