"""The hub's server: it keeps repositories, counts what travels and makes faults on request."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from huggingface_hub import HfApi

from tests.hub.faults import Fault, Recording, Request
from tests.hub.repos import Commit, File, HubError, Repository, goes_by_lfs
from tests.hub.routes import OWNER, Call, Reply, answer, json_reply

_COMPLEMENT = bytes(range(255, -1, -1))


class LoopbackHub:
    """A Hub at http://127.0.0.1:port, from `with` to the end of its block.

    Everything belongs to one user, whose token is `token`. `stranger_token` is another user's, who may read what is
    public and open pull requests there. Without a token one may read.

    Args:
        verify_uploads: Asks the client to confirm each large file that it uploaded, which costs a request.
    """

    token, stranger_token = "hf_owner", "hf_stranger"

    def __init__(self, verify_uploads: bool = False) -> None:
        self.verify_uploads = verify_uploads
        self.repos: dict[str, Repository] = {}
        self.requests = Recording()
        self._recordings = [self.requests]
        self._faults: list[Fault] = []
        self._failures: list[str] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._failures and kind is None:
            raise AssertionError("The hub itself failed:\n" + "\n".join(self._failures))

    def api(self, token: str | bool | None = None) -> HfApi:
        """A client of this hub: with the token of the environment, with `token`, or with none for False."""
        return HfApi(endpoint=self.endpoint, token=token)

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Yields a list that gets the requests made inside of the block."""
        recording = Recording()
        with self._lock:
            self._recordings.append(recording)
        try:
            yield recording
        finally:
            with self._lock:
                self._recordings = [one for one in self._recordings if one is not recording]

    def fault(self, path: str, **trouble: Any) -> None:
        """Makes the next requests to `path` go wrong; the arguments are those of `Fault`."""
        with self._lock:
            self._faults.append(Fault(path, **trouble))

    def hint(self) -> None:
        """Ends every fault."""
        with self._lock:
            self._faults.clear()

    def create(self, repo: str, private: bool = False) -> bool:
        """Makes an empty repository; False where there is one of this name."""
        with self._lock:
            return repo not in self.repos and self.repos.setdefault(repo, Repository(repo, private)) is not None

    def put(self, repo: str, files: Mapping[str, bytes | None], revision: str = "main", message: str = "put") -> str:
        """Commits files without the client, in a new repository if need be. No path is refused.

        Args:
            repo: The repository's name, "user/name".
            files: The content of each path. With None, the path is listed but has no content.
            revision: A branch, or `refs/pr/N`.
            message: The commit's title.

        Returns:
            The commit's id.
        """
        self.create(repo)
        made = {path: File(content, goes_by_lfs(path, len(content or b""))) for path, content in files.items()}
        self.repos[repo].objects.update(
            {file.sha256: file.content for file in made.values() if file.content and file.lfs}
        )
        return self.repos[repo].commit(revision, lambda present: present.update(made), message)[1].oid

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The content of every file that has any, `.gitattributes` included."""
        found = self.repos[repo].find(revision).files
        return {path: file.content for path, file in found.items() if file.content is not None}

    def commits(self, repo: str, revision: str = "main") -> list[Commit]:
        """The history of a revision, newest first."""
        history: list[Commit] = []
        following: str | None = revision
        while following:
            history.append(self.repos[repo].find(following))
            following = history[-1].parent
        return history

    def _next_fault(self, call: Call) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.fits(call.method, unquote(call.path))), None)
            if fault:
                fault.times -= 1
        return fault

    def _reply(self, call: Call) -> tuple[Reply, Fault | None]:
        """The answer to a request, and what goes wrong with it."""
        fault = self._next_fault(call)
        try:
            if fault:
                fault.before()
                time.sleep(fault.delay)
                if fault.status:
                    raise HubError(fault.status, f"a fault of the test's making at {call.path}", fault.code)
            reply = answer(self, call)
        except HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message, **error.headers}
            reply = json_reply({"error": error.message}, error.status)
            reply.headers.update({name: value for name, value in headers.items() if value})
        except Exception:
            self._failures.append(f"{call.method} {call.path}\n{traceback.format_exc()}")
            reply = json_reply({"error": self._failures[-1]}, 500)
        if fault:
            reply = Reply(reply.status, reply.body, {**reply.headers, **fault.headers})
        if fault and fault.corrupt:
            reply = Reply(reply.status, reply.body.translate(_COMPLEMENT), reply.headers)
        return reply, fault

    def _record(self, request: Request) -> None:
        with self._lock:
            for recording in self._recordings:
                recording.append(request)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no matter of the hub's."""


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 44 ms for each request otherwise
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        url = urlsplit(self.path)
        body = self.rfile.read(int(headers.get("content-length", 0)))
        users = {f"Bearer {self.hub.token}": OWNER, f"Bearer {self.hub.stranger_token}": "stranger"}
        user = users.get(headers.get("authorization", ""))
        call = Call(self.command, url.path, dict(parse_qsl(url.query)), headers, body, user, parse_qs(url.query))
        if "authorization" in headers and user is None:
            wrong = {"X-Error-Message": "Invalid credentials in Authorization header"}
            reply, fault = Reply(401, headers=wrong), None
        else:
            reply, fault = self.hub._reply(call)
        cut_off = bool(fault and fault.cut_off)
        sent = b"" if self.command == "HEAD" else reply.body
        if cut_off:
            self.close_connection = True
            sent = sent[: len(sent) // 2]
        # Before the answer: a client that has it may ask at once what was recorded.
        self.hub._record(Request(self.command, unquote(url.path), reply.status, len(body), len(sent)))
        if cut_off and not reply.body:
            return
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        drip = fault.drip if fault else 0.0
        step = 1 if drip else max(len(sent), 1)
        for start in range(0, len(sent), step):
            self.wfile.write(sent[start : start + step])
            self.wfile.flush()
            time.sleep(drip)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815
