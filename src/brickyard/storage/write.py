"""From a model to files: all of its bricks, or what tells which bricks they are."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.names import is_inside
from brickyard.core.provenance import Provenance
from brickyard.errors import BrickError, BrickInputError, BrickMismatchError, BrickNotFoundError
from brickyard.recipe.build import recipe_of
from brickyard.storage.atomic import replaced_together
from brickyard.storage.config import describe
from brickyard.storage.fit import BACKBONE, Backbone
from brickyard.storage.integrity import sha256_of
from brickyard.storage.manifest import MANIFEST, Entry, Manifest, check_stored_names, dump
from brickyard.storage.read import inspect_brick, read_manifest
from brickyard.storage.sources.files import DEFAULT_ACCESS, FolderFiles
from brickyard.storage.weights import SUFFIX, weights_sha256, write_weights

Refer = str | Iterable[str] | Mapping[str, str]

_OF_THE_WEIGHTS = ("source", "metrics", "measured")  # what a brick's JSON says of the very weights


@final
@dataclass(frozen=True)
class StoredBrick:
    """A brick as it is to be stored.

    Attributes:
        config: Its JSON.
        entry: Its place in the manifest.
        is_stale: Whether it was trained on a backbone that changed since.
    """

    config: Mapping[str, Any]
    entry: Entry
    is_stale: bool

    @property
    def files(self) -> list[str]:
        """The names of its files in the model's own folder; none for a reference."""
        if self.entry.is_published:
            return []
        return [f"{self.entry.at}.json", *([f"{self.entry.at}{SUFFIX}"] if self.entry.weights else [])]


def save_pretrained(
    model: BrickCollection, folder: str | os.PathLike[str], *, weights: str | None = None, refer: Refer = ()
) -> None:
    """Write a model as a folder from which it can be built again, in any process.

    Args:
        model: Each brick must wrap a part that `create_part` made. Its bricks remember what they were stored as.
        folder: Where to. What an earlier model left there goes; files that are no bricks stay. A save that fails, or is
            killed, changes nothing.
        weights: A tag for the weights, as in the last part of a model's name.
        refer: Bricks that are published elsewhere and are only named, by a pinned reference: their paths, where they
            were loaded from there, or {path: "hf://user/repo/backbone"}.

    Raises:
        UnsafeBrickError: A brick wraps something that no registered part describes.
        BrickMismatchError: A reference is to other weights.
        BrickInputError: `refer` names a brick that is published nowhere.
    """
    folder = Path(folder)
    with replaced_together(folder) as staging:
        old = _manifest_in(folder)  # nobody else changes it from here on
        written = write_bricks(model, staging.folder, old.bricks, refer)
        entries = {path: each.entry for path, each in written.items()}
        manifest = Manifest(name_of(model, weights), entries, old.extra)
        (staging.folder / MANIFEST).write_text(dump(manifest.to_json()), encoding="utf-8")
        kept = {name for each in written.values() for name in each.files}
        before = [entry.at for entry in old.bricks.values() if not entry.is_published]
        for name in (name for at in before for name in (f"{at}.json", f"{at}{SUFFIX}")):
            if name not in kept:
                staging.remove(name)
    stale = [path for path, each in written.items() if each.is_stale]
    if stale:
        what = "was trained on a backbone that changed since, and is saved beside the changed one"
        warnings.warn(f"Stale: {', '.join(stale)} {what}. Train it again, or load it knowing that.", stacklevel=3)
    record_provenance(model, written)


def write_bricks(
    model: BrickCollection,
    folder: Path,
    old: Mapping[str, Entry],
    refer: Refer = (),
    only: Iterable[str] | None = None,
) -> dict[str, StoredBrick]:
    """Write the files of a model's bricks; the errors are those of `save_pretrained`.

    Args:
        model: The model.
        folder: Where to; nothing of it is replaced.
        old: What is there already: a reference to the same brick stays one.
        refer: See `save_pretrained`.
        only: Bricks or places; None for all.

    Returns:
        Each brick that was written or referred to, by path.
    """
    check_stored_names(model.bricks(), "the model")
    chosen = chosen_bricks(model, only)
    uris = _references(model, refer)

    def written(path: str, brick: Brick) -> dict[str, Any] | None:
        if brick.module is None or not brick.module.state_dict():
            return None
        file = folder / f"{path}{SUFFIX}"
        write_weights(brick.module, file, brick.provenance.dtypes if brick.provenance else {})
        return {"sha256": sha256_of(file), "size": file.stat().st_size}

    results = {}
    for path, (config, is_stale) in configs_of(model, written).items():
        if path not in chosen:
            continue
        text = dump(config)
        facts = config.get("weights") or {"sha256": None, "size": 0}
        entry = Entry(path, hashlib.sha256(text.encode()).hexdigest(), facts["sha256"], facts["size"])
        reference = uris.get(path) or _kept_reference(chosen[path], old.get(path), entry)
        if reference is not None:
            if reference.weights != entry.weights:
                expected = f"weights with the sha256 {entry.weights}, found {reference.weights}"
                raise BrickMismatchError(f"'{path}' cannot be a reference to {reference.at}", [expected])
            entry = reference
        else:
            file = folder / f"{path}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        results[path] = StoredBrick(config, entry, is_stale)
    for file in folder.rglob(f"*{SUFFIX}"):
        if file.relative_to(folder).as_posix() not in {name for each in results.values() for name in each.files}:
            file.unlink()  # it was weighed, but is a reference or was not chosen
    return results


def configs_of(
    model: BrickCollection, weigh: Callable[[str, Brick], dict[str, Any] | None]
) -> dict[str, tuple[dict[str, Any], bool]]:
    """The JSON of each brick, and whether it is stale.

    Args:
        model: The model.
        weigh: From a path and brick to the `sha256` and `size` of its weights, None where it has none.
    """
    bricks = model.bricks()
    stored = {path: weigh(path, brick) for path, brick in bricks.items()}
    provides = bricks[BACKBONE].metadata.get("provides") if BACKBONE in bricks else None
    backbone = Backbone(provides, (stored.get(BACKBONE) or {}).get("sha256"))
    described = {}
    for path, brick in bricks.items():
        config, is_stale = describe(brick), False
        if (facts := stored[path]) is not None:
            provenance = brick.provenance
            unchanged = provenance is not None and provenance.weights == facts["sha256"]
            if provenance is not None and not unchanged:
                config = {key: value for key, value in config.items() if key not in _OF_THE_WEIGHTS}
            config["weights"] = facts
            if path != BACKBONE:
                needs = provenance.trained_on if provenance is not None and unchanged else None
                config |= {"requires": {BACKBONE: needs}} if needs else backbone.as_needs()
                is_stale = needs is not None and provides is not None and needs["sha256"] != backbone.sha256
        described[path] = config, is_stale
    return described


def hash_in_memory(path: str, brick: Brick) -> dict[str, Any] | None:
    """The identity of a brick's weights, without a file."""
    if brick.module is None or not brick.module.state_dict():
        return None
    size = brick.provenance.config["weights"]["size"] if brick.provenance and brick.provenance.weights else None
    return {"sha256": weights_sha256(brick.module, brick.provenance.dtypes if brick.provenance else {}), "size": size}


def record_provenance(model: BrickCollection, written: Mapping[str, StoredBrick], place: str | None = None) -> None:
    """Let each brick know what it was stored as.

    Args:
        model: The model.
        written: What was stored.
        place: Where it is published now, `hf://user/repo@<commit>`; None for a folder.
    """
    for path, brick in model.bricks().items():
        if path not in written:
            continue
        each, provenance = written[path], brick.provenance
        uri = each.entry.at if each.entry.is_published else f"{place}/{path}" if place else None
        if uri is None and provenance is not None and provenance.sha256 == each.entry.config:
            uri = provenance.uri  # it is what it was, so it is also where it was
        before = provenance.published if provenance is not None and uri is None else None
        brick.provenance = Provenance(
            each.config, each.entry.config, uri, provenance.dtypes if provenance else {}, before
        )


def chosen_bricks(model: BrickCollection, only: str | Iterable[str] | None) -> dict[str, Brick]:
    """The bricks at some paths or places; None for all.

    Raises:
        BrickNotFoundError: There is none at one of them.
    """
    bricks = model.bricks()
    wanted = list(bricks) if only is None else [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if not any(is_inside(path, name) for path in bricks):
            raise BrickNotFoundError(f"No brick '{name}' in the model. There are: {', '.join(bricks)}.")
    return {path: brick for path, brick in bricks.items() if any(is_inside(path, name) for name in wanted)}


def name_of(model: BrickCollection, weights: str | None = None) -> str | None:
    """The name that `create_model` has for such a model, None if it has none."""
    recipe = recipe_of(model, weights)
    return recipe.name if recipe and all(head.name == head.task for head in recipe.heads) else None


def _references(model: BrickCollection, refer: Refer) -> dict[str, Entry]:
    """What `refer` asks for: {path: a published entry}."""
    references = {}
    if isinstance(refer, Mapping):
        chosen_bricks(model, refer)
        for path, uri in refer.items():
            info = inspect_brick(uri)
            if info.uri is None:
                raise BrickInputError(f"refer '{path}'", "a place on the Hub or in the zoo", uri)
            facts = info.weights or {"sha256": None, "size": 0}
            references[path] = Entry(info.uri, info.sha256, facts["sha256"], facts["size"])
        return references
    for path, brick in chosen_bricks(model, refer).items():
        if brick.provenance is None or brick.provenance.uri is None:
            hint = f"Push it first, or say where it is: refer={{'{path}': 'hf://user/repo/{path}'}}."
            raise BrickInputError(f"refer '{path}'", "a brick that is published", "one that is only here", hint)
        facts = brick.provenance.config.get("weights") or {"sha256": None, "size": 0}
        references[path] = Entry(brick.provenance.uri, brick.provenance.sha256, facts["sha256"], facts["size"])
    return references


def _kept_reference(brick: Brick, old: Entry | None, entry: Entry) -> Entry | None:
    """The reference that stands there already, if it is to this very brick."""
    if old is None or not old.is_published or brick.provenance is None:
        return None
    return old if (brick.provenance.sha256, entry.weights) == (old.config, old.weights) else None


def _manifest_in(folder: Path) -> Manifest:
    """The manifest of an earlier model in the folder, an empty one where there is none that can be read."""
    with suppress(BrickError):
        if (folder / MANIFEST).is_file():
            return read_manifest(FolderFiles(folder, DEFAULT_ACCESS))[0]
    return Manifest(None, {})
