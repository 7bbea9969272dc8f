"""Publish a model on the Hugging Face Hub in one commit that contains only the bricks that changed."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from brickyard.core.brick import Brick
from brickyard.errors import BrickMismatchError, BrickNotFoundError, HubConnectionError, PushConflictError
from brickyard.recipe.inspection import name_of
from brickyard.storage.card import CARD, render_card
from brickyard.storage.fit import BrickInfo
from brickyard.storage.locks import temp_folder
from brickyard.storage.manifest import MANIFEST, Entry, Manifest, dump, parse
from brickyard.storage.read import read_entries
from brickyard.storage.sources.files import Access
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.sources.limits import pushing
from brickyard.storage.write import Refer, WrittenBrick, describe_all, hash_in_memory, record_provenance, write_bricks

_TRIES = 20  # each one fails only if another push succeeded in between
_PRECONDITION_FAILED = 412  # the repo has a newer commit than `parent_commit`
_CONFLICT = 409  # the repo exists
_CARD_HASH = "card"  # field of the manifest: the sha256 of the generated card; a card with another hash is kept


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
) -> CommitInfo:
    """Push a model, or some of its bricks, as one commit; see `BrickCollection.push_to_hub`."""
    access = Access(token)
    api = HubFiles(repo_id, None, access).api
    is_new = _create(api, repo_id, private)
    base: Mapping[str, Entry] | None = None
    is_retry = False
    for attempt in range(_TRIES):
        remote = _read_remote(repo_id, access, is_new)
        with temp_folder("brickyard-push-") as folder:
            written = write_bricks(bricks, folder, remote.manifest.bricks, refer, only)
            if not allow_stale:
                _refuse_stale(written)
            base = _base(bricks, repo_id, remote.manifest) if base is None else base
            _refuse_conflicts(written, remote.manifest, base, repo_id)
            changed = _changed(written, remote.manifest, base)
            additions = _additions(bricks, repo_id, written, changed, remote, folder)
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


@final
@dataclass(frozen=True)
class _Remote:
    """A repo at one commit.

    Attributes:
        files: The files of the repo.
        manifest: The manifest, an empty one if the repo has none.
        has_generated_card: Whether the card is the one generated for the manifest, or absent.
    """

    files: HubFiles
    manifest: Manifest
    has_generated_card: bool


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


def _read_remote(repo_id: str, access: Access, is_new: bool) -> _Remote:
    files = HubFiles(repo_id, None, access)
    location = f"{files.location}/{MANIFEST}"
    try:
        manifest = Manifest.from_json(parse(files.peek(MANIFEST), location), location)
    except BrickNotFoundError:
        manifest = Manifest(None, {})
    if is_new and not manifest.bricks:
        return _Remote(files, manifest, has_generated_card=True)
    try:
        card = hashlib.sha256(files.peek(CARD)).hexdigest()
    except BrickNotFoundError:
        card = None
    return _Remote(files, manifest, card in (None, manifest.extra.get(_CARD_HASH)))


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


def _additions(
    bricks: Mapping[str, Brick],
    repo_id: str,
    written: Mapping[str, WrittenBrick],
    changed: list[str],
    remote: _Remote,
    folder: Path,
) -> list[str]:
    """Write the manifest and the card, and return the names of the files to upload."""
    if not changed:
        return []
    entries = {**remote.manifest.bricks, **{path: written[path].entry for path in changed}}
    whole = set(entries) <= set(written)
    name = name_of(bricks) if whole or remote.manifest.collection is None else remote.manifest.collection
    manifest = Manifest(name, entries, remote.manifest.extra)
    names = [MANIFEST]
    if remote.has_generated_card:
        card = render_card(repo_id, manifest, _infos(bricks, entries, written, remote), source=f"hf://{repo_id}")
        (folder / CARD).write_text(card, encoding="utf-8")
        manifest = Manifest(name, entries, {**manifest.extra, _CARD_HASH: hashlib.sha256(card.encode()).hexdigest()})
        names.append(CARD)
    (folder / MANIFEST).write_text(dump(manifest.to_json()), encoding="utf-8")
    for path in changed:
        before = remote.manifest.bricks.get(path)
        is_there = before is not None and not before.is_published and before.weights == written[path].entry.weights
        names += [file for file in written[path].files if file.endswith(".json") or not is_there]
    return names


def _infos(
    bricks: Mapping[str, Brick], entries: Mapping[str, Entry], written: Mapping[str, WrittenBrick], remote: _Remote
) -> dict[str, BrickInfo]:
    """Describe the bricks of the repo: as they were written, as they are in the model, else as the repo has them."""
    configs = {path: each.config for path, each in written.items() if each.entry.same_as(entries[path])}
    if any(path in bricks for path in entries if path not in configs):
        for path, (config, _) in describe_all(bricks, hash_in_memory).items():
            if path in entries and hashlib.sha256(dump(config).encode()).hexdigest() == entries[path].config:
                configs.setdefault(path, config)
    infos = {path: BrickInfo(path, config, entries[path].config, "the model", None) for path, config in configs.items()}
    others = {path: entry for path, entry in entries.items() if path not in infos}
    infos |= {path: stored.info for path, stored in read_entries(remote.files, others).items()}
    return {path: infos[path] for path in entries}


def _message(changed: list[str]) -> str:
    return f"Push {', '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}" if changed else "Nothing changed"
