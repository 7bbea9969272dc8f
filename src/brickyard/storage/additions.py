"""The files of a push: changed bricks, the manifest, the card, and the file that the Hub counts downloads by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from brickyard.core.brick import Brick
from brickyard.errors import BrickNotFoundError
from brickyard.recipe.inspection import BACKBONE, name_of
from brickyard.storage.card import CARD, render_card
from brickyard.storage.card_metadata import hub_config
from brickyard.storage.config import describe
from brickyard.storage.fit import BrickInfo
from brickyard.storage.manifest import MANIFEST, Entry, Manifest, dump, parse
from brickyard.storage.read import read_entries
from brickyard.storage.sources.files import Access
from brickyard.storage.sources.hub import HUB_CONFIG, HubFiles
from brickyard.storage.write import WrittenBrick, describe_all, hash_in_memory

# Generated files, with the field of the manifest that has their sha256; a file with another hash is kept.
_GENERATED = {CARD: "card", HUB_CONFIG: "hub_config"}


@final
@dataclass(frozen=True)
class Remote:
    """A repo at one commit.

    Attributes:
        files: The files of the repo.
        manifest: The manifest, an empty one if the repo has none.
        is_new: Whether it has no files yet.
    """

    files: HubFiles
    manifest: Manifest
    is_new: bool

    def may_write(self, name: str) -> bool:
        """Return whether a file is the one generated for the manifest, or absent."""
        if self.is_new:
            return True
        try:
            content = self.files.peek(name)
        except BrickNotFoundError:
            return True
        return hashlib.sha256(content).hexdigest() == self.manifest.extra.get(_GENERATED[name])


def read_remote(repo_id: str, access: Access, is_new: bool) -> Remote:
    """Read the manifest of a repo; a new one has none."""
    files = HubFiles(repo_id, None, access)
    location = f"{files.location}/{MANIFEST}"
    try:
        manifest = Manifest.from_json(parse(files.peek(MANIFEST), location), location)
    except BrickNotFoundError:
        manifest = Manifest(None, {})
    return Remote(files, manifest, is_new and not manifest.bricks)


def write_additions(
    bricks: Mapping[str, Brick],
    repo_id: str,
    written: Mapping[str, WrittenBrick],
    changed: list[str],
    remote: Remote,
    folder: Path,
) -> list[str]:
    """Write the manifest and the card, and return the names of the files to upload."""
    if not changed and _GENERATED[HUB_CONFIG] in remote.manifest.extra:
        return []
    entries = {**remote.manifest.bricks, **{path: written[path].entry for path in changed}}
    whole = set(entries) <= set(written)
    name = name_of(bricks) if whole or remote.manifest.collection is None else remote.manifest.collection
    generated = _generate(bricks, repo_id, Manifest(name, entries, remote.manifest.extra), written, remote)
    hashes = {_GENERATED[file]: None if text is None else _sha256(text) for file, text in generated.items()}
    manifest = Manifest(name, entries, {**remote.manifest.extra, **hashes})
    texts = {file: text for file, text in generated.items() if text is not None}
    for file, text in {MANIFEST: dump(manifest.to_json()), **texts}.items():
        (folder / file).write_text(text, encoding="utf-8")
    names = [MANIFEST, *texts]
    for path in changed:
        before = remote.manifest.bricks.get(path)
        is_there = before is not None and not before.is_published and before.weights == written[path].entry.weights
        names += [file for file in written[path].files if file.endswith(".json") or not is_there]
    return names


def _generate(
    bricks: Mapping[str, Brick],
    repo_id: str,
    manifest: Manifest,
    written: Mapping[str, WrittenBrick],
    remote: Remote,
) -> dict[str, str | None]:
    """Return the text of the generated files by name, None for one that the user has replaced by another."""
    is_checked = _GENERATED[HUB_CONFIG] in manifest.extra
    is_card = remote.may_write(CARD)
    if not is_card and is_checked:
        return {}
    infos = _infos(bricks, manifest.bricks, written, remote)
    generated: dict[str, str | None] = {HUB_CONFIG: _hub_config(manifest, infos, remote)}
    if is_card:
        generated[CARD] = render_card(repo_id, manifest, infos, f"hf://{repo_id}", _absent_backbone(bricks, infos))
    return generated


def _hub_config(manifest: Manifest, infos: Mapping[str, BrickInfo], remote: Remote) -> str | None:
    """Return the text of the file that the Hub counts downloads by, None if the repo has another file of that name."""
    if any(f"{entry.at}.json".lower() == HUB_CONFIG for entry in manifest.bricks.values()):
        return None
    text = hub_config(manifest.collection or remote.files.repo, infos)
    return text if _sha256(text) == manifest.extra.get(_GENERATED[HUB_CONFIG]) or remote.may_write(HUB_CONFIG) else None


def _absent_backbone(bricks: Mapping[str, Brick], infos: Mapping[str, BrickInfo]) -> BrickInfo | None:
    """Describe the backbone of a model whose heads alone are in the repo; it is published only if it is unchanged."""
    brick = bricks.get(BACKBONE)
    if brick is None or BACKBONE in infos:
        return None
    weights, provenance = hash_in_memory(BACKBONE, brick), brick.provenance
    uri = provenance.uri if provenance is not None and weights and provenance.weights == weights["sha256"] else None
    return BrickInfo(BACKBONE, {**describe(brick), "weights": weights}, "", "the model", uri)


def _infos(
    bricks: Mapping[str, Brick], entries: Mapping[str, Entry], written: Mapping[str, WrittenBrick], remote: Remote
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


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
