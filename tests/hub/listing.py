"""How the Hub lists models: by the tags that follow from their cards, in pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.hub.faults import Recording
from tests.hub.repos import Repository

PAGE = 1000  # models of a response
_CARD = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


def list_models(
    repos: Iterable[Repository], requests: Recording, queries: Mapping[str, list[str]], url: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The models of a response and its headers.

    Args:
        repos: The repositories that the caller may see.
        requests: What was asked so far: a request for a `config.json` counts as a download.
        queries: The query: `filter` (tags, of which all must be there), `author`, `sort`, `limit`, `expand`, `cursor`.
        url: The address of the list.
    """
    asked, author = set(queries.get("filter", [])), queries.get("author", [None])[0]
    models = [_model(repo, requests) for repo in repos if author in (None, repo.name.partition("/")[0])]
    models = [model for model in models if asked <= set(model["tags"])]
    if "sort" in queries:
        models.sort(key=lambda model: model[queries["sort"][0]], reverse=True)
    start = int(queries.get("cursor", ["0"])[0])
    end = start + min(int(queries.get("limit", [PAGE])[0]), PAGE)
    more = urlencode({**queries, "cursor": [str(end)]}, doseq=True)
    shown = {"id", *queries.get("expand", ["downloads", "sha", "tags"])}
    page = [{key: value for key, value in model.items() if key in shown} for model in models[start:end]]
    return page, {"Link": f'<{url}?{more}>; rel="next"'} if end < len(models) else {}


def _model(repo: Repository, requests: Recording) -> dict[str, Any]:
    commit = repo.find("main")
    counted = [request for request in requests.matching(f"/{repo.name}/resolve/*") if request.status == 200]
    return {
        "id": repo.name,
        "sha": commit.oid,
        "downloads": sum(re.fullmatch(r"[^/]+/config\.json", _name(request.path)) is not None for request in counted),
        "tags": _tags(commit.files["README.md"].content if "README.md" in commit.files else None),
        "siblings": [{"rfilename": path} for path in commit.files],
    }


def _name(path: str) -> str:
    """The revision and the name of the file in the address of a download."""
    return path.partition("/resolve/")[2]


def _tags(card: bytes | None) -> list[str]:
    match = _CARD.match((card or b"").decode())
    data = yaml.safe_load(match[1]) if match else {}
    tags = [*data.get("tags", []), *filter(None, [data.get("library_name"), data.get("pipeline_tag")])]
    tags += [f"license:{data['license']}"] if "license" in data else []
    tags += [f"dataset:{name}" for name in data.get("datasets", [])]
    tags += [f"base_model:{data['base_model']}"] if "base_model" in data else []
    return [*dict.fromkeys(tags), "region:us"]
