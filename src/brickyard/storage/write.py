"""Write a model's bricks as files and describe what was written."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from brickyard.core.brick import Brick
from brickyard.core.names import is_inside
from brickyard.core.provenance import Provenance
from brickyard.errors import BrickError, BrickInputError, BrickMismatchError, BrickNotFoundError
from brickyard.recipe.inspection import BACKBONE, name_of, provided_by
from brickyard.storage.atomic import replaced_together
from brickyard.storage.check_written import check_loads, checked_text, manifest_text
from brickyard.storage.config import OF_WEIGHTS, describe
from brickyard.storage.fit import Backbone, BrickInfo
from brickyard.storage.integrity import sha256_of
from brickyard.storage.manifest import MANIFEST, Entry, Manifest, check_stored_names
from brickyard.storage.read import inspect_brick, read_manifest
from brickyard.storage.sources.files import DEFAULT_ACCESS, FolderFiles
from brickyard.storage.tensor_file import SUFFIX
from brickyard.storage.weights import target_folder, weights_sha256, write_weights

Refer = str | Iterable[str] | Mapping[str, str]

# Metadata that is only true for unchanged weights; the licence holds for what was trained from them, too.
_OF_THE_WEIGHTS = [key for key in OF_WEIGHTS if key != "licence"]


@final
@dataclass(frozen=True)
class WrittenBrick:
    """A brick as it was written.

    Attributes:
        config: The JSON values.
        entry: The entry in the manifest.
        is_stale: Whether the brick was trained on a backbone that has changed since.
    """

    config: Mapping[str, Any]
    entry: Entry
    is_stale: bool

    @property
    def files(self) -> list[str]:
        """The names of its files in the model's folder; none for a reference."""
        if self.entry.is_published:
            return []
        return [f"{self.entry.at}.json", *([f"{self.entry.at}{SUFFIX}"] if self.entry.weights else [])]


def save_model(
    bricks: Mapping[str, Brick],
    folder: str | os.PathLike[str],
    *,
    weights: str | None = None,
    refer: Refer = (),
    exist_ok: bool = True,
    only: str | Iterable[str] | None = None,
) -> None:
    """Write a model, or some of its bricks, into a folder; see `BrickCollection.save_pretrained`."""
    folder = target_folder(folder, exist_ok)
    with replaced_together(folder) as staging:
        # Within the lock, so that no other process changes it.
        old = _manifest_in(folder) if only is None else read_manifest(FolderFiles(folder, DEFAULT_ACCESS))[0]
        written = write_bricks(bricks, staging.folder, old.bricks, refer, only)
        rest = {} if only is None else {path: entry for path, entry in old.bricks.items() if path not in written}
        _check_backbone(written, rest, folder)
        entries = {**rest, **{path: each.entry for path, each in written.items()}}
        name = name_of(bricks, weights) if set(entries) == set(bricks) else old.collection
        (staging.folder / MANIFEST).write_text(manifest_text(Manifest(name, entries, old.extra)), encoding="utf-8")
        kept = {name for each in written.values() for name in each.files}
        before = [entry.at for path, entry in old.bricks.items() if path not in rest and not entry.is_published]
        for name in (name for at in before for name in (f"{at}.json", f"{at}{SUFFIX}")):
            if name not in kept:
                staging.remove(name)
    stale = [path for path, each in written.items() if each.is_stale]
    if stale:
        what = "was trained on a backbone that has changed since, and is saved with the changed one"
        warnings.warn(f"Stale: {', '.join(stale)} {what}. Consider training it again.", stacklevel=3)
    record_provenance(bricks, written)


def _check_backbone(written: Mapping[str, WrittenBrick], rest: Mapping[str, Entry], folder: Path) -> None:
    """Refuse bricks that were trained on another backbone than the one that stays in the folder."""
    if BACKBONE not in rest:
        return
    expected, problems = rest[BACKBONE].weights, []
    for path, each in written.items():
        trained_on = (each.config.get("requires") or {}).get(BACKBONE, {}).get("sha256", expected)
        if trained_on != expected:
            problems.append(f"'{path}' was trained on the weights {trained_on}, found {expected}")
    if problems:
        raise BrickMismatchError(f"The backbone in {folder} is another one; nothing was written", problems)


def write_bricks(
    bricks: Mapping[str, Brick],
    folder: Path,
    old: Mapping[str, Entry],
    refer: Refer = (),
    only: str | Iterable[str] | None = None,
) -> dict[str, WrittenBrick]:
    """Write the files of bricks; errors as for `BrickCollection.save_pretrained`.

    Args:
        bricks: All bricks of the model by path.
        folder: An empty folder to write to.
        old: The entries of the present manifest: a reference to an unchanged brick is kept.
        refer: See `BrickCollection.save_pretrained`.
        only: Paths or prefixes of bricks to write, None for all.

    Returns:
        Each brick that was written or referred to, by path.
    """
    check_stored_names(bricks, "the model")
    _refuse_shared(bricks)
    chosen = choose(bricks, only)
    references = _references(bricks, refer)

    def write(path: str, brick: Brick) -> dict[str, Any] | None:
        if brick.module is None or not brick.module.state_dict():
            return None
        file = folder / f"{path}{SUFFIX}"
        write_weights(brick.module, file, brick.provenance.dtypes if brick.provenance else {})
        return {"sha256": sha256_of(file), "size": file.stat().st_size}

    written = {}
    for path, (config, is_stale) in describe_all(bricks, write).items():
        if path not in chosen:
            continue
        text = checked_text(path, config)
        weights = config.get("weights") or {"sha256": None, "size": 0}
        entry = Entry(path, hashlib.sha256(text.encode()).hexdigest(), weights["sha256"], weights["size"])
        reference = references.get(path) or _kept_reference(chosen[path], old.get(path), entry)
        if reference is not None:
            if reference.weights != entry.weights:
                expected = f"weights: expected sha256 {entry.weights}, found {reference.weights}"
                raise BrickMismatchError(f"'{path}' cannot be a reference to {reference.at}", [expected])
            entry = reference
        else:
            check_loads(BrickInfo(path, config, entry.config, "the model", None), folder)
            file = folder / f"{path}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        written[path] = WrittenBrick(config, entry, is_stale)
    names = {name for each in written.values() for name in each.files}
    for file in folder.rglob(f"*{SUFFIX}"):
        if file.relative_to(folder).as_posix() not in names:
            file.unlink()  # it was hashed, but is a reference or was not chosen
    return written


def describe_all(
    bricks: Mapping[str, Brick], describe_weights: Callable[[str, Brick], dict[str, Any] | None]
) -> dict[str, tuple[dict[str, Any], bool]]:
    """Return the JSON of each brick and whether the brick is stale.

    Args:
        bricks: All bricks of the model by path.
        describe_weights: Returns the `sha256` and `size` of a brick's weights, None without weights.
    """
    weights = {path: describe_weights(path, brick) for path, brick in bricks.items()}
    provides = provided_by(bricks)
    backbone = Backbone(provides, (weights.get(BACKBONE) or {}).get("sha256"))
    described = {}
    for path, brick in bricks.items():
        config, is_stale = describe(brick), False
        if (stored := weights[path]) is not None:
            provenance = brick.provenance
            unchanged = provenance is not None and provenance.weights == stored["sha256"]
            if provenance is not None and not unchanged:
                config = {key: value for key, value in config.items() if key not in _OF_THE_WEIGHTS}
            config["weights"] = stored
            if path != BACKBONE:
                requires = provenance.trained_on if provenance is not None and unchanged else None
                if requires is None:
                    config |= backbone.requirements()
                else:
                    config["requires"] = {BACKBONE: requires}
                    is_stale = provides is not None and requires["sha256"] != backbone.sha256
        described[path] = config, is_stale
    return described


def hash_in_memory(path: str, brick: Brick) -> dict[str, Any] | None:
    """Return the `sha256` and `size` of a brick's weights without writing a file, None without weights."""
    if brick.module is None or not brick.module.state_dict():
        return None
    provenance = brick.provenance
    size = provenance.config["weights"]["size"] if provenance and provenance.weights else None
    return {"sha256": weights_sha256(brick.module, provenance.dtypes if provenance else {}), "size": size}


def record_provenance(
    bricks: Mapping[str, Brick], written: Mapping[str, WrittenBrick], repo: str | None = None
) -> None:
    """Set the provenance of bricks that were written.

    Args:
        bricks: All bricks of the model by path.
        written: The bricks that were written.
        repo: Where they were published, `hf://user/repo@<commit>`; None for a folder.
    """
    for path, brick in bricks.items():
        if path not in written:
            continue
        each, provenance = written[path], brick.provenance
        uri = each.entry.at if each.entry.is_published else f"{repo}/{path}" if repo else None
        if uri is None and provenance is not None and provenance.sha256 == each.entry.config:
            uri = provenance.uri  # unchanged, so still published there
        before = provenance.published if provenance is not None and uri is None else None
        dtypes = provenance.dtypes if provenance else {}
        brick.provenance = Provenance(each.config, each.entry.config, uri, dtypes, before)


def choose(bricks: Mapping[str, Brick], only: str | Iterable[str] | None) -> dict[str, Brick]:
    """Return the bricks at some paths or prefixes, all for None.

    Raises:
        BrickNotFoundError: There is no brick at one of them.
    """
    wanted = list(bricks) if only is None else [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if not any(is_inside(path, name) for path in bricks):
            raise BrickNotFoundError.of(name, "the model", bricks)
    return {path: brick for path, brick in bricks.items() if any(is_inside(path, name) for name in wanted)}


def _refuse_shared(bricks: Mapping[str, Brick]) -> None:
    """Refuse two bricks that share a module with weights: files would give each brick weights of its own."""
    owners: dict[int, str] = {}
    for path, brick in bricks.items():
        if brick.module is not None and brick.module.state_dict():
            other = owners.setdefault(id(brick.module), path)
            if other != path:
                hint = "Give each its own module (copy.deepcopy), or wrap the calls in one module."
                raise BrickInputError(f"brick '{path}'", "a module of its own", f"that of brick '{other}'", hint)


def _references(bricks: Mapping[str, Brick], refer: Refer) -> dict[str, Entry]:
    """Return the published entry of each brick that `refer` names."""
    references = {}
    if isinstance(refer, Mapping):
        choose(bricks, refer)
        for path, uri in refer.items():
            info = inspect_brick(uri)
            if info.uri is None:
                raise BrickInputError(f"refer '{path}'", "a source on the Hub or in the zoo", uri)
            weights = info.weights or {"sha256": None, "size": 0}
            references[path] = Entry(info.uri, info.sha256, weights["sha256"], weights["size"])
        return references
    for path, brick in choose(bricks, refer).items():
        if brick.provenance is None or brick.provenance.uri is None:
            hint = f"Push it first, or name its source: refer={{'{path}': 'hf://user/repo/{path}'}}."
            raise BrickInputError(f"refer '{path}'", "a published brick", "one without a published source", hint)
        weights = brick.provenance.config.get("weights") or {"sha256": None, "size": 0}
        references[path] = Entry(brick.provenance.uri, brick.provenance.sha256, weights["sha256"], weights["size"])
    return references


def _kept_reference(brick: Brick, old: Entry | None, entry: Entry) -> Entry | None:
    """Return the reference in the present manifest if it is to this very brick."""
    if old is None or not old.is_published or brick.provenance is None:
        return None
    return old if (brick.provenance.sha256, entry.weights) == (old.config, old.weights) else None


def _manifest_in(folder: Path) -> Manifest:
    """Read the manifest of an earlier model in the folder; an empty one if there is none that can be read."""
    with suppress(BrickError):
        if (folder / MANIFEST).is_file():
            return read_manifest(FolderFiles(folder, DEFAULT_ACCESS))[0]
    return Manifest(None, {})
