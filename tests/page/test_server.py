"""The server of a site."""

import threading
from urllib.request import urlopen

import pytest

from brickyard.page.server import make_server

TYPES = {
    "index.html": "text/html; charset=utf-8",
    "a.js": "text/javascript; charset=utf-8",
    "a.mjs": "text/javascript; charset=utf-8",
    "a.wasm": "application/wasm",
    "a.json": "application/json",
    "a.css": "text/css; charset=utf-8",
}


@pytest.mark.parametrize("name", TYPES)
def test_files_have_the_types_that_browsers_want(tmp_path, name):
    (tmp_path / name).write_text("content")
    with make_server(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host, port = server.server_address
        with urlopen(f"http://127.0.0.1:{port}/{name}") as response:
            assert response.headers["Content-Type"] == TYPES[name]
            assert response.read() == b"content"
        server.shutdown()
        thread.join()
    assert host == "127.0.0.1"
