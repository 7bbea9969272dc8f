"""Serve the folder of a site on this machine."""

from __future__ import annotations

import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, final

_ADDRESS = "127.0.0.1"  # not reachable from other machines

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


@final
class _Handler(SimpleHTTPRequestHandler):
    """Send files with the types that browsers insist on, whatever the types of the system are."""

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        return _TYPES.get(os.path.splitext(path)[1].lower()) or super().guess_type(path)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a site that was written again is shown at once
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a page has dozens of files."""


def make_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """Create a server of a folder on 127.0.0.1; `serve_forever` runs it.

    Args:
        folder: The folder.
        port: The port, 0 for a free one, which is `server_address[1]`.

    Raises:
        OSError: The port is in use.
    """
    return ThreadingHTTPServer((_ADDRESS, port), partial(_Handler, directory=str(folder)))
