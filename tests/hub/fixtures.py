"""The fixture `hub`: a hub for one test, and a client that knows no other."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import close_session
from huggingface_hub.utils.tqdm import progress_bar_states

from tests.hub.server import LoopbackHub
from tests.private_names import RETRYING


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A running hub with nothing in it, the owner logged in, and an empty cache at `tmp_path / "hf"`.

    For a second process, `{**os.environ, **hub.environment}` is the environment that sees the same hub and cache.
    """
    home = tmp_path / "hf"
    with LoopbackHub() as hub:
        hub.environment["HF_HOME"] = str(home)
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        # The client reads its environment once, when it is imported.
        settings = {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(
            hf_api.api, "endpoint", hub.endpoint
        )  # module functions such as upload_file are its methods
        monkeypatch.setitem(progress_bar_states, "_global", False)
        for module in RETRYING:  # tries again at once, instead of after 1, 2, 4 and 8 s
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
        # How the client sends large files is deprecated in its own HTTP library; a test ends with its filters.
        warnings.filterwarnings("ignore", "Use 'content=<...>' to upload raw", DeprecationWarning)
        yield hub
        close_session()  # its connections would outlive the hub
