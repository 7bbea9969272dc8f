"""The Hub's HTTP routes, from a request to an answer, without a socket."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from tests.hub.cards import check_card
from tests.hub.listing import list_models
from tests.hub.repos import Commit, HubError, Repository, goes_by_lfs

if TYPE_CHECKING:
    from tests.hub.server import LoopbackHub

OWNER = "owner"


@dataclass(frozen=True)
class Call:
    """A request. `user` is None without a token; `query` keeps the last value of each name, `queries` all."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    user: str | None
    queries: dict[str, list[str]] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer; the server adds Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_reply(content: Any, status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


_ROUTES: list[tuple[str, re.Pattern[str], str, Callable[..., Reply]]] = []
_GROUPS = {"repo": r"(?P<repo>[^/]+/[^/]+)", "rev": r"(?P<rev>[^/]+)", "path": r"(?P<path>.+)"}


def _route(method: str, pattern: str, access: str = "") -> Callable[[Callable[..., Reply]], Callable[..., Reply]]:
    """Adds a route. `access` is what the caller must be allowed: "see", "download", "propose" or "write"."""

    def add(handler: Callable[..., Reply]) -> Callable[..., Reply]:
        _ROUTES.append((method, re.compile(pattern.format(**_GROUPS)), access, handler))
        return handler

    return add


def answer(hub: LoopbackHub, call: Call) -> Reply:
    """Finds the route of a request and runs it; HubError is the answer to a bad one."""
    for method, pattern, access, handler in _ROUTES:
        match = pattern.fullmatch(call.path)
        if match and method == call.method.replace("HEAD", "GET"):
            groups: dict[str, Any] = {name: value and unquote(value) for name, value in match.groupdict().items()}
            if access:
                proposed = access == "write" and "create_pr" in call.query
                groups["repo"] = _admit(hub, call, groups["repo"], "propose" if proposed else access)
            return handler(hub, call, **groups)
    raise HubError(404, f"No route for {call.method} {call.path}")


def _admit(hub: LoopbackHub, call: Call, name: str, access: str) -> Repository:
    repo, refused = hub.repos.get(name), 403 if call.user else 401
    if repo is None or (repo.private and call.user != OWNER):
        # A private repository looks like none at all.
        message = "Repository not found" if call.user else "Invalid username or password."
        raise HubError(404 if call.user else 401, message, "RepoNotFound")
    if repo.gated and access == "download" and call.user != OWNER:
        raise HubError(refused, f"Access to model {name} is restricted.", "GatedRepo")
    if (access == "write" and call.user != OWNER) or (access == "propose" and not call.user):
        raise HubError(refused, f"You are not allowed to {access} to {name}" if call.user else "Log in first")
    return repo


@_route("GET", "/api/whoami-v2")
def _whoami(hub: LoopbackHub, call: Call) -> Reply:
    if call.user is None:
        raise HubError(401, "Invalid username or password.")
    return json_reply({"type": "user", "name": call.user, "orgs": [], "auth": {"type": "access_token"}})


@_route("POST", "/api/validate-yaml")
def _validate_yaml(hub: LoopbackHub, call: Call) -> Reply:
    errors, warnings = check_card(call.json()["content"])
    found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return json_reply(found, 400 if errors else 200)


@_route("POST", "/api/repos/create")
def _create(hub: LoopbackHub, call: Call) -> Reply:
    if call.user != OWNER:
        raise HubError(403 if call.user else 401, "You have no right to create a model here")
    asked = call.json()
    name = f"{asked.get('organization') or OWNER}/{asked['name']}"
    made = {"url": f"{hub.endpoint}/{name}", "name": name}
    if not hub.create(name, private=asked.get("visibility") == "private"):
        return json_reply({**made, "error": "You already created this model repo"}, 409)
    return json_reply(made)


@_route("GET", "/api/models")
def _list(hub: LoopbackHub, call: Call) -> Reply:
    repos = [repo for repo in hub.repos.values() if not repo.private or call.user == OWNER]
    page, headers = list_models(repos, hub.requests, call.queries, f"{hub.endpoint}/api/models")
    reply = json_reply(page)
    return Reply(200, reply.body, {**reply.headers, **headers})


@_route("GET", "/api/(models|datasets)/{repo}(/revision/{rev})?", "see")
def _info(hub: LoopbackHub, call: Call, repo: Repository, rev: str | None) -> Reply:
    commit = repo.find(rev or "main")
    info = {"id": repo.name, "sha": commit.oid, "private": repo.private, "gated": repo.gated and "auto"}
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
    if "blobs" in call.query:
        for sibling, file in zip(siblings, commit.files.values(), strict=True):
            sibling |= {"size": file.size, "blobId": file.blob_id}
            sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 1} if file.lfs else None
    return json_reply({**info, "lastModified": commit.date, "tags": [], "siblings": siblings})


def _tree(commit: Commit) -> dict[str, dict[str, Any]]:
    """Each path of a commit with its entry: the files, and the folders that they lie in."""
    tree = {path: file.listed(path) for path, file in commit.files.items()}
    for path in commit.files:
        for end in (index for index, letter in enumerate(path) if letter == "/" and index):
            oid = hashlib.sha1(f"{commit.oid}{path[:end]}".encode()).hexdigest()
            tree.setdefault(path[:end], {"type": "directory", "path": path[:end], "oid": oid, "size": 0})
    return tree


@_route("GET", "/api/(models|datasets)/{repo}/tree/{rev}(/{path})?", "see")
def _list_tree(hub: LoopbackHub, call: Call, repo: Repository, rev: str, path: str | None) -> Reply:
    tree, root = _tree(repo.find(rev)), f"{path.rstrip('/')}/" if path else ""
    below = {name: entry for name, entry in sorted(tree.items()) if name.startswith(root)}
    if path and not below:
        raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
    recursive = call.query.get("recursive", "").lower() in {"true", "1"}
    return json_reply([entry for name, entry in below.items() if recursive or "/" not in name[len(root) :]])


@_route("POST", "/api/models/{repo}/paths-info/{rev}", "see")
def _paths_info(hub: LoopbackHub, call: Call, repo: Repository, rev: str) -> Reply:
    tree, asked = _tree(repo.find(rev)), parse_qs(call.body.decode()).get("paths", [])
    return json_reply([tree[path.rstrip("/")] for path in asked if path.rstrip("/") in tree])


@_route("POST", "/api/models/{repo}/preupload/{rev}", "write")
def _preupload(hub: LoopbackHub, call: Call, repo: Repository, rev: str) -> Reply:
    present = repo.find(rev).files
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if goes_by_lfs(file["path"], file["size"]) else "regular",
            "shouldIgnore": False,
            "oid": present[file["path"]].etag if file["path"] in present else None,
        }
        for file in call.json()["files"]
    ]
    return json_reply({"files": files})


@_route("POST", r"/{repo}\.git/info/lfs/objects/batch", "propose")
def _lfs_batch(hub: LoopbackHub, call: Call, repo: Repository) -> Reply:
    objects = [{"oid": one["oid"], "size": one["size"]} for one in call.json()["objects"]]
    for one in objects:
        if one["oid"] not in repo.objects:
            one["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs/{repo.name}/{one['oid']}"}}
            if hub.verify_uploads:
                one["actions"]["verify"] = {"href": f"{hub.endpoint}/lfs/{repo.name}/verify"}
    return json_reply({"transfer": "basic", "objects": objects})


@_route("PUT", "/lfs/{repo}/{rev}")
def _lfs_put(hub: LoopbackHub, call: Call, repo: str, rev: str) -> Reply:
    # Without an access check: the real Hub hands out signed addresses, and the client sends no token to them.
    if hashlib.sha256(call.body).hexdigest() != rev:
        raise HubError(400, "The content does not have the hash that was announced")
    hub.repos[repo].objects[rev] = call.body
    return Reply()


@_route("POST", "/lfs/{repo}/verify", "propose")
def _lfs_verify(hub: LoopbackHub, call: Call, repo: Repository) -> Reply:
    if len(repo.objects.get(call.json()["oid"], b"")) != call.json()["size"]:
        raise HubError(404, "No such object")
    return Reply()


@_route("POST", "/api/models/{repo}/lfs-files/duplicate", "download")
def _lfs_duplicate(hub: LoopbackHub, call: Call, repo: Repository) -> Reply:
    target = _admit(hub, call, call.json()["target"]["name"], "write")
    asked = [file["sha256"] for file in call.json()["files"]]
    target.objects.update({oid: repo.objects[oid] for oid in asked if oid in repo.objects})
    missing = [{"sha256": oid, "error": "no such file"} for oid in asked if oid not in repo.objects]
    return json_reply({"success": True, "failed": missing})


@_route("POST", "/api/models/{repo}/commit/{rev}", "write")
def _commit(hub: LoopbackHub, call: Call, repo: Repository, rev: str) -> Reply:
    header, *lines = [json.loads(line) for line in call.body.splitlines()]
    told, parent = header["value"], header["value"].get("parentCommit")

    def change(files: dict[str, Any]) -> None:
        for line in lines:
            repo.apply(line, files)
        if any(line["value"]["path"] == "README.md" for line in lines) and "README.md" in files:
            errors, _ = check_card(files["README.md"].content.decode())
            if errors:
                raise HubError(400, "; ".join(errors))

    propose = "create_pr" in call.query
    ref, commit = repo.commit(rev, change, told["summary"], told["description"], parent, propose)
    made = {"success": True, "commitOid": commit.oid, "commitUrl": f"{hub.endpoint}/{repo.name}/commit/{commit.oid}"}
    if propose:
        made["pullRequestUrl"] = f"{hub.endpoint}/{repo.name}/discussions/{ref.split('/')[-1]}"
    return json_reply(made)


@_route("GET", "/api/models/{repo}/refs", "see")
def _refs(hub: LoopbackHub, call: Call, repo: Repository) -> Reply:
    def listed(prefix: str, short: bool = True) -> list[dict[str, str]]:
        found = [(ref, oid) for ref, oid in sorted(repo.refs.items()) if ref.startswith(prefix)]
        return [
            {"name": ref.removeprefix(prefix) if short else ref, "ref": ref, "targetCommit": oid} for ref, oid in found
        ]

    pulls = {"pullRequests": listed("refs/pr/", short=False)} if "include_prs" in call.query else {}
    return json_reply({"branches": listed("refs/heads/"), "tags": listed("refs/tags/"), "converts": [], **pulls})


@_route("POST", "/api/models/{repo}/(?P<kind>branch|tag)/{rev}", "write")
def _add_ref(hub: LoopbackHub, call: Call, repo: Repository, kind: str, rev: str) -> Reply:
    # A branch's address holds its own name, a tag's the revision that it is put on.
    asked = call.json()
    name, start = (asked["tag"], rev) if kind == "tag" else (rev, asked.get("startingPoint", "main"))
    ref = f"refs/{'tags' if kind == 'tag' else 'heads'}/{name}"
    with repo.lock:
        if ref in repo.refs:
            raise HubError(409, f"Reference {ref} already exists")
        repo.refs[ref] = repo.find(start).oid
    return json_reply({})


@_route("GET", "(/datasets)?/{repo}/resolve/{rev}/{path}", "download")
def _resolve(hub: LoopbackHub, call: Call, repo: Repository, rev: str, path: str) -> Reply:
    commit = repo.find(rev)
    file, headers = commit.files.get(path), {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if file is None or file.content is None:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    headers["ETag"] = f'"{file.etag}"'
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", ""))
    if asked is None or call.method == "HEAD":
        return Reply(200, file.content, headers)
    first, last = asked.groups()
    start = int(first) if first else max(file.size - int(last), 0)
    end = min(int(last) + 1 if first and last else file.size, file.size)
    if start >= end:
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{file.size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return Reply(206, file.content[start:end], headers)
