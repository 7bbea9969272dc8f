"""Publish a model on the Hugging Face Hub: one commit, with the bricks that changed and nothing else."""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from brickyard.collection import BrickCollection
from brickyard.errors import BrickMismatchError, BrickNotFoundError, PushConflictError
from brickyard.storage.card import CARD, render_card
from brickyard.storage.fit import BrickInfo
from brickyard.storage.manifest import MANIFEST, Entry, Manifest, dump, parse
from brickyard.storage.read import find_brick
from brickyard.storage.sources.files import Access, Files, FolderFiles
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.write import Refer, StoredBrick, name_of, record_provenance, write_bricks

_TRIES = 20  # each one lost means that somebody else's push was made in the meantime
_RACE_LOST = 412
_IS_THERE = 409
_CARD_HASH = "card"  # in the manifest: the sha256 of the card that belongs to it, so that one written by hand stays


def push_to_hub(
    model: BrickCollection,
    repo_id: str,
    *,
    bricks: str | Iterable[str] | None = None,
    refer: Refer = (),
    create_pr: bool = False,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    allow_stale: bool = False,
) -> CommitInfo:
    """Push a model, or some of its bricks, as one commit that carries only what changed.

    What others pushed to the repo stays. Where somebody else commits at the same moment, it is tried again on top of
    theirs. The model's bricks remember where they are published now.

    Args:
        model: Each brick must wrap a part that `create_part` made.
        repo_id: `user/repo`; it is created if it is not there.
        bricks: Paths or places, such as "seg"; None for all.
        refer: Bricks that are published elsewhere and stay there, see `save_pretrained`.
        create_pr: Propose it as a pull request.
        private: Whether a new repo is private, None for the user's or organisation's default.
        token: As huggingface_hub takes it.
        commit_message: By default it names the bricks.
        allow_stale: Push also heads whose backbone was changed after they were trained.

    Returns:
        huggingface_hub's description of the commit: `.oid`, `.commit_url`, `.pr_url` ...

    Raises:
        PushConflictError: Somebody else changed one of these bricks since the model was loaded, or last pushed.
        BrickMismatchError: A head is stale, or a reference is to other weights.
        BrickNotFoundError: The model has no such brick.
        UnsafeBrickError: A brick wraps something that no registered part describes.
        huggingface_hub's own errors for repos, tokens and the network.
    """
    access = Access(token)
    api = HubFiles(repo_id, None, access).api
    is_new = _create(api, repo_id, private)
    base: Mapping[str, Entry] | None = None
    is_lost = False
    for attempt in range(_TRIES):
        remote = _look(repo_id, access, is_new)
        with tempfile.TemporaryDirectory(prefix="brickyard-") as name:
            folder = Path(name)
            written = write_bricks(model, folder, remote.manifest.bricks, refer, bricks)
            if not allow_stale:
                _refuse_stale(written)
            base = _base(model, repo_id, remote.manifest) if base is None else base
            _refuse_conflicts(written, remote.manifest, base, repo_id)
            changed = _changed(written, remote.manifest, base)
            additions = _additions(model, repo_id, written, changed, remote, folder)
            try:
                done = api.create_commit(
                    repo_id,
                    [CommitOperationAdd(path, folder / path) for path in additions],
                    commit_message=commit_message or _message(changed),
                    parent_commit=remote.files.commit,
                    create_pr=create_pr,
                )
            except HfHubHTTPError as error:
                if error.response.status_code != _RACE_LOST:
                    raise
                time.sleep(random.uniform(0, 0.1 * min(attempt + 1, 10)))
                continue
            except httpx.TransportError:
                if create_pr or is_lost:
                    raise
                is_lost = True  # the answer is; whether the commit is made, the next look tells
                continue
        theirs = _kept(written, remote.manifest, base)
        ours = {path: each for path, each in written.items() if path not in theirs}
        record_provenance(model, ours, f"hf://{repo_id}@{done.oid}")
        return done
    raise PushConflictError(f"{repo_id} was changed by others {_TRIES} times while this push was tried. Try it again.")


@final
@dataclass(frozen=True)
class _Remote:
    """A repo at one commit.

    Attributes:
        files: Its files.
        manifest: Its manifest, an empty one where it has none.
        card_is_ours: Whether its card is the one that was made for the manifest, or there is none.
    """

    files: HubFiles
    manifest: Manifest
    card_is_ours: bool


def _create(api: HfApi, repo_id: str, private: bool | None) -> bool:
    """Have the repo; tell whether it is new."""
    try:
        api.create_repo(repo_id, private=private)
    except HfHubHTTPError as error:
        if error.response.status_code != _IS_THERE:
            api.create_repo(repo_id, private=private, exist_ok=True)  # who may not create it may still write to it
        return False
    return True


def _look(repo_id: str, access: Access, is_new: bool) -> _Remote:
    files = HubFiles(repo_id, None, access)
    location = f"{files.location}/{MANIFEST}"
    try:
        manifest = Manifest.from_json(parse(files.peek(MANIFEST), location), location)
    except BrickNotFoundError:
        manifest = Manifest(None, {})
    if is_new and not manifest.bricks:
        return _Remote(files, manifest, card_is_ours=True)
    try:
        card = hashlib.sha256(files.peek(CARD)).hexdigest()
    except BrickNotFoundError:
        card = None
    return _Remote(files, manifest, card in (None, manifest.extra.get(_CARD_HASH)))


def _base(model: BrickCollection, repo_id: str, manifest: Manifest) -> dict[str, Entry]:
    """What this model knows of the repo's bricks: what was loaded from there, else what is there now."""
    known = dict(manifest.bricks)
    for path, brick in model.bricks().items():
        provenance = brick.provenance.published if brick.provenance is not None else None
        if provenance is not None and str(provenance.uri).startswith(f"hf://{repo_id}@"):
            known[path] = Entry(path, provenance.sha256, provenance.weights)
    return known


def _refuse_conflicts(
    written: Mapping[str, StoredBrick], manifest: Manifest, base: Mapping[str, Entry], repo_id: str
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
            f"Somebody else changed {theirs} in {repo_id} since this model was loaded. Load the repo again and swap "
            "your bricks in, or push them to another repo."
        )


def _refuse_stale(written: Mapping[str, StoredBrick]) -> None:
    stale = [path for path, each in written.items() if each.is_stale]
    if stale:
        raise BrickMismatchError(
            "Stale heads are not pushed: train them again, or pass allow_stale=True",
            [f"'{path}' was trained on a backbone that was changed since" for path in stale],
        )


def _kept(written: Mapping[str, StoredBrick], manifest: Manifest, base: Mapping[str, Entry]) -> list[str]:
    """The bricks that others changed and we did not: theirs stay."""
    return [
        path
        for path, each in written.items()
        if (now := manifest.bricks.get(path)) is not None
        and not now.same_as(each.entry)
        and each.entry.same_as(base.get(path))
    ]


def _changed(written: Mapping[str, StoredBrick], manifest: Manifest, base: Mapping[str, Entry]) -> list[str]:
    theirs = _kept(written, manifest, base)
    return [
        path
        for path, each in written.items()
        if path not in theirs and not each.entry.same_as(manifest.bricks.get(path))
    ]


def _additions(
    model: BrickCollection,
    repo_id: str,
    written: Mapping[str, StoredBrick],
    changed: list[str],
    remote: _Remote,
    folder: Path,
) -> list[str]:
    """Write manifest and card beside the bricks; return the names of the files that are to travel."""
    if not changed:
        return []
    entries = {**remote.manifest.bricks, **{path: written[path].entry for path in changed}}
    whole = set(entries) <= set(written)
    name = name_of(model) if whole or remote.manifest.collection is None else remote.manifest.collection
    manifest = Manifest(name, entries, remote.manifest.extra)
    names = [MANIFEST]
    if remote.card_is_ours:
        infos = {path: _info(path, entry, written, remote.files, folder) for path, entry in entries.items()}
        card = render_card(repo_id, manifest, infos, source=f"hf://{repo_id}")
        (folder / CARD).write_text(card, encoding="utf-8")
        manifest = Manifest(name, entries, {**manifest.extra, _CARD_HASH: hashlib.sha256(card.encode()).hexdigest()})
        names.append(CARD)
    (folder / MANIFEST).write_text(dump(manifest.to_json()), encoding="utf-8")
    for path in changed:
        before = remote.manifest.bricks.get(path)
        is_there = before is not None and not before.is_published and before.weights == written[path].entry.weights
        names += [file for file in written[path].files if file.endswith(".json") or not is_there]
    return names


def _info(path: str, entry: Entry, written: Mapping[str, StoredBrick], files: HubFiles, folder: Path) -> BrickInfo:
    """What is known of a brick of the repo: from here where it is the same, else from there."""
    if path in written and written[path].entry.same_as(entry):
        here: Files = FolderFiles(folder, files.access)
        return BrickInfo(path, written[path].config, entry.config, here)
    return find_brick(files, path)


def _message(changed: list[str]) -> str:
    return f"Push {', '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}" if changed else "Nothing changed"
