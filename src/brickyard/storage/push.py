"""Publish a model on the Hugging Face Hub in one commit that contains only the bricks that changed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from brickyard.core.brick import Brick
from brickyard.errors import BrickMismatchError, HubConnectionError, PushConflictError
from brickyard.storage.additions import Remote, read_remote, write_additions
from brickyard.storage.licences import licences_of, refuse_licences
from brickyard.storage.locks import temp_folder
from brickyard.storage.manifest import Entry, Manifest
from brickyard.storage.read import read_entries
from brickyard.storage.sources.files import Access
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.sources.limits import pushing
from brickyard.storage.write import (
    Refer,
    WrittenBrick,
    choose,
    record_provenance,
    write_bricks,
)

_TRIES = 20  # each one fails only if another push succeeded in between
_PRECONDITION_FAILED = 412  # the repo has a newer commit than `parent_commit`
_CONFLICT = 409  # the repo exists


def push_model(
    bricks: Mapping[str, Brick],
    repo_id: str,
    *,
    only: str | Iterable[str] | None = None,
    refer: Refer = (),
    create_pr: bool = False,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    allow_stale: bool = False,
    allow_licences: Iterable[str] | None = None,
) -> CommitInfo:
    """Push a model, or some of its bricks, as one commit; see `BrickCollection.push_to_hub`."""
    if allow_licences is not None:
        allow_licences = allow_licences if isinstance(allow_licences, str) else list(allow_licences)
        refuse_licences(licences_of(choose(bricks, only)), allow_licences)
    access = Access(token)
    api = HubFiles(repo_id, None, access).api
    is_new = _create(api, repo_id, private)
    base: Mapping[str, Entry] | None = None
    is_retry = False
    for attempt in range(_TRIES):
        remote = read_remote(repo_id, access, is_new)
        with temp_folder("brickyard-push-") as folder:
            written = write_bricks(bricks, folder, remote.manifest.bricks, refer, only)
            if not allow_stale:
                _refuse_stale(written)
            if allow_licences is not None:
                refuse_licences(_licences_of_references(written, remote), allow_licences)
            base = _base(bricks, repo_id, remote.manifest) if base is None else base
            _refuse_conflicts(written, remote.manifest, base, repo_id)
            changed = _changed(written, remote.manifest, base)
            additions = write_additions(bricks, repo_id, written, changed, remote, folder)
            parent = remote.files.commit
            try:
                with pushing(f"the push to {repo_id}"):
                    done = api.create_commit(
                        repo_id,
                        [CommitOperationAdd(path, folder / path) for path in additions],
                        commit_message=commit_message or _message(changed),
                        parent_commit=parent,
                        create_pr=create_pr,
                    )
            except HfHubHTTPError as error:
                if error.response.status_code != _PRECONDITION_FAILED:
                    raise
                time.sleep(random.uniform(0, 0.1 * min(attempt + 1, 10)))
                continue
            except HubConnectionError:
                if create_pr or is_retry:
                    raise
                is_retry = True  # the response was lost; the next attempt sees whether the commit exists
                continue
        theirs = _kept(written, remote.manifest, base)
        ours = {path: each for path, each in written.items() if path not in theirs}
        record_provenance(bricks, ours, f"hf://{repo_id}@{done.oid}")
        return done
    raise PushConflictError(f"{repo_id} received other commits during all {_TRIES} attempts to push. Try again.")


def _create(api: HfApi, repo_id: str, private: bool | None) -> bool:
    """Create the repo unless it exists; return whether it is new."""
    with pushing(f"the push to {repo_id}"):
        try:
            api.create_repo(repo_id, private=private)
        except HfHubHTTPError as error:
            if error.response.status_code != _CONFLICT:  # write access does not imply the right to create
                api.create_repo(repo_id, private=private, exist_ok=True)
            return False
        return True


def _base(bricks: Mapping[str, Brick], repo_id: str, manifest: Manifest) -> dict[str, Entry]:
    """Return the state that this model is based on: the bricks loaded from the repo, else its present ones."""
    known = dict(manifest.bricks)
    for path, brick in bricks.items():
        provenance = brick.provenance.published if brick.provenance is not None else None
        if provenance is not None and str(provenance.uri).startswith(f"hf://{repo_id}@"):
            known[path] = Entry(path, provenance.sha256, provenance.weights)
    return known


def _refuse_conflicts(
    written: Mapping[str, WrittenBrick], manifest: Manifest, base: Mapping[str, Entry], repo_id: str
) -> None:
    theirs = [
        path
        for path, each in written.items()
        if (now := manifest.bricks.get(path)) is not None
        and not now.same_as(each.entry)
        and not each.entry.same_as(base.get(path))
        and not now.same_as(base.get(path))
    ]
    if theirs:
        raise PushConflictError(
            f"{theirs} in {repo_id} changed since this model was loaded. Load the repo again and swap your bricks in, "
            "or push them to another repo."
        )


def _refuse_stale(written: Mapping[str, WrittenBrick]) -> None:
    stale = [path for path, each in written.items() if each.is_stale]
    if stale:
        raise BrickMismatchError(
            "Stale heads are not pushed. Train them again, or pass allow_stale=True",
            [f"'{path}' was trained on a backbone that has changed since" for path in stale],
        )


def _kept(written: Mapping[str, WrittenBrick], manifest: Manifest, base: Mapping[str, Entry]) -> list[str]:
    """Return the bricks that changed in the repo but not in this model: those of the repo are kept."""
    return [
        path
        for path, each in written.items()
        if (now := manifest.bricks.get(path)) is not None
        and not now.same_as(each.entry)
        and each.entry.same_as(base.get(path))
    ]


def _changed(written: Mapping[str, WrittenBrick], manifest: Manifest, base: Mapping[str, Entry]) -> list[str]:
    theirs = _kept(written, manifest, base)
    return [
        path
        for path, each in written.items()
        if path not in theirs and not each.entry.same_as(manifest.bricks.get(path))
    ]


def _message(changed: list[str]) -> str:
    return f"Push {', '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}" if changed else "Update the model card"


def _licences_of_references(written: Mapping[str, WrittenBrick], remote: Remote) -> dict[str, str | None]:
    """Return the licences that published bricks state, which may not be those that the model states."""
    entries = {path: each.entry for path, each in written.items() if each.entry.is_published and each.entry.weights}
    return {path: stored.info.licence for path, stored in read_entries(remote.files, entries).items()}
