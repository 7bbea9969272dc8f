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
    if unpublished:
        hint = "Push the model first: model.push_to_hub('user/repo')."
        raise BrickInputError("lock", "bricks that are published and unchanged since", f"{unpublished}", hint)
    values = Manifest(name_of(bricks), entries).to_json()
    if file is not None:
        write_whole(Path(file), dump(values))
    return values


def _is_unchanged(config: dict[str, Any], provenance: Provenance) -> bool:
    same_weights = (config.get("weights") or {}).get("sha256") == provenance.weights
    return same_weights and _lasting(config) == _lasting(provenance.config)


def _lasting(config: Mapping[str, Any]) -> Any:
    """Return the fields that identify a brick as JSON has them, with lists for tuples."""
    return json.loads(dump({key: value for key, value in config.items() if key not in _TEMPORARY}))
