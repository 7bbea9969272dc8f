"""A model as nothing but references: what to install on another machine, to the byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brickyard.collection import BrickCollection
from brickyard.core.provenance import Provenance
from brickyard.errors import BrickInputError
from brickyard.storage.atomic import write_whole
from brickyard.storage.manifest import Entry, Manifest, dump
from brickyard.storage.write import configs_of, hash_in_memory, name_of

_OF_THE_MOMENT = ("trainable", "requires", "weights")  # what may differ between a brick in use and its published form


def lock(model: BrickCollection, file: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The model's manifest with every reference absolute; `BrickCollection.from_pretrained` builds the model from it.

    A brick without weights that is published nowhere, as a loss that was made anew by a swap, stands in it whole.

    Args:
        model: Every brick with weights must be published, and unchanged since.
        file: Write it there as well.

    Returns:
        JSON values.

    Raises:
        BrickInputError: A brick with weights is published nowhere, or was changed.
    """
    entries, unpublished = {}, []
    bricks = model.bricks()
    for path, (config, _) in configs_of(model, hash_in_memory).items():
        provenance = bricks[path].provenance
        if provenance is not None and provenance.uri is not None and _is_unchanged(config, provenance):
            facts = provenance.config.get("weights") or {"sha256": None, "size": 0}
            entries[path] = Entry(provenance.uri, provenance.sha256, facts["sha256"], facts["size"])
        elif config.get("weights"):
            unpublished.append(path)
        else:
            text = dump(config)
            entries[path] = Entry(path, hashlib.sha256(text.encode()).hexdigest(), brick=config)
    if unpublished:
        hint = "Push the model first: model.push_to_hub('user/repo')."
        raise BrickInputError("lock", "bricks that are published and unchanged since", f"{unpublished}", hint)
    values = Manifest(name_of(model), entries).to_json()
    if file is not None:
        write_whole(Path(file), dump(values))
    return values


def _is_unchanged(config: dict[str, Any], provenance: Provenance) -> bool:
    same_weights = (config.get("weights") or {}).get("sha256") == provenance.weights
    return same_weights and _lasting(config) == _lasting(provenance.config)


def _lasting(config: Mapping[str, Any]) -> Any:
    """What makes a brick the one it is, as JSON has it: a tuple is a list there."""
    return json.loads(dump({key: value for key, value in config.items() if key not in _OF_THE_MOMENT}))
