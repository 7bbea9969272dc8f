"""Describe a model by pinned references only, to rebuild it elsewhere to the byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brickyard.core.brick import Brick
from brickyard.core.provenance import Provenance
from brickyard.errors import BrickInputError
from brickyard.recipe.inspection import name_of
from brickyard.storage.atomic import write_whole
from brickyard.storage.manifest import Entry, Manifest, dump
from brickyard.storage.read import read_entries, read_manifest
from brickyard.storage.sources.files import Access
from brickyard.storage.sources.timm import TimmFiles
from brickyard.storage.sources.uri import open_source
from brickyard.storage.write import describe_all, hash_in_memory

_TEMPORARY = ("trainable", "requires", "weights")  # fields that may differ between a brick in use and its stored form


def lock_model(bricks: Mapping[str, Brick], file: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Return the manifest of a model with absolute references; see `BrickCollection.lock`."""
    entries, unpublished = {}, []
    for path, (config, _) in describe_all(bricks, hash_in_memory).items():
        provenance = bricks[path].provenance
        if provenance is not None and provenance.uri is not None and _is_unchanged(config, provenance):
            weights = provenance.config.get("weights") or {"sha256": None, "size": 0}
            entries[path] = Entry(provenance.uri, provenance.sha256, weights["sha256"], weights["size"])
        elif config.get("weights"):
            unpublished.append(path)
        else:
            text = dump(config)
            entries[path] = Entry(path, hashlib.sha256(text.encode()).hexdigest(), brick=config)
    return _lock(name_of(bricks), entries, unpublished, file)


def lock_source(
    source: str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> dict[str, Any]:
    """Return the lock of a stored model; no weights are downloaded, except those that timm stored without a hash.

    Args:
        source: A repo of the Hub, a zoo model, a folder or a lock; see `storage.sources.uri`.
        file: A file to write the lock to.
        revision: A branch, tag or commit of a repo.
        token: A token of the Hub, as for huggingface_hub.

    Returns:
        JSON values, as those of `BrickCollection.lock`.

    Raises:
        BrickInputError: A brick with weights is not published.
        BrickNotFoundError: The source is a part of a model, or there is no model.
        Other errors as for `BrickCollection.from_pretrained`.
    """
    files, prefix = open_source(source, revision=revision, access=Access(token))
    if prefix:
        raise BrickInputError("lock", "a whole model", f"'{prefix}' in {files.location}")
    manifest, files = read_manifest(files)
    entries, unpublished = {}, []
    for path, entry in manifest.bricks.items():
        uri = entry.at if entry.is_published else files.uri(entry.at)
        if uri is not None and not isinstance(files, TimmFiles):
            entries[path] = Entry(uri, entry.config, entry.weights, entry.size)
            continue
        info = read_entries(files, {path: entry})[path].with_hashes().info
        weights = info.weights or {"sha256": None, "size": 0}
        if uri is not None:
            entries[path] = Entry(uri, info.sha256, weights["sha256"], weights["size"])
        elif info.weights:
            unpublished.append(path)
        else:
            entries[path] = Entry(path, info.sha256, brick=info.config)
    return _lock(manifest.collection, entries, unpublished, file)


def _lock(
    name: str | None, entries: Mapping[str, Entry], unpublished: list[str], file: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Return the JSON values of a lock, and write them to a file if there is one."""
    if unpublished:
        hint = "Push the model first: model.push_to_hub('user/repo')."
        raise BrickInputError("lock", "bricks that are published and unchanged since", f"{unpublished}", hint)
    values = Manifest(name, entries).to_json()
    if file is not None:
        write_whole(Path(file).expanduser(), dump(values))
    return values


def _is_unchanged(config: dict[str, Any], provenance: Provenance) -> bool:
    same_weights = (config.get("weights") or {}).get("sha256") == provenance.weights
    return same_weights and _lasting(config) == _lasting(provenance.config)


def _lasting(config: Mapping[str, Any]) -> Any:
    """Return the fields that identify a brick as JSON has them, with lists for tuples."""
    return json.loads(dump({key: value for key, value in config.items() if key not in _TEMPORARY}))
