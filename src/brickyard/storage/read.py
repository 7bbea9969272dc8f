"""Models and bricks at rest: a JSON and a safetensors file for each brick, and a manifest.

    bricks.json                              the manifest: each brick's place, hashes and size, in order
    backbone.json   backbone.safetensors
    cls/head.json   cls/head.safetensors
    cls/loss.json                            a brick without tensors has only its JSON

The same files are a saved model, a model of the zoo and a repo of the Hub. Reading goes from JSON to weights: a brick
that does not fit is refused before its weights are touched.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.errors import HfUriError, LocalEntryNotFoundError

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.names import is_inside
from brickyard.core.provenance import Provenance
from brickyard.errors import BrickIntegrityError, BrickMismatchError, BrickNotFoundError, UnsafeBrickError
from brickyard.storage.config import check_fields, make_brick, well_formed
from brickyard.storage.fit import BACKBONE, Backbone, BrickInfo, Check, problems, refuse
from brickyard.storage.manifest import MANIFEST, PUBLISHED, Entry, Manifest, dump, parse
from brickyard.storage.sources.files import Access, Files, LockFiles
from brickyard.storage.sources.timm import TimmFiles
from brickyard.storage.sources.uri import open_source
from brickyard.storage.weights import SUFFIX, assign_weights, uninitialised


def inspect_brick(uri: str, *, token: str | bool | None = None, local_files_only: bool = False) -> BrickInfo:
    """What is known of a stored brick, from its JSON alone: about a kilobyte travels, and no weights.

    Args:
        uri: A brick, or the place of a head: see `sources.py`.
        token: As huggingface_hub takes it.
        local_files_only: Look only into huggingface_hub's cache.

    Raises:
        BrickNotFoundError: There is no such brick.
        UnsafeBrickError, BrickIntegrityError, BrickMismatchError: Its JSON is not as brickyard writes it.
        huggingface_hub's own errors for repos, revisions and tokens.
    """
    files, path = open_source(uri, access=Access(token, local_files_only))
    return find_brick(files, path or BACKBONE)


def from_pretrained(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    revision: str | None = None,
    bricks: str | Iterable[str] | None = None,
    check: Check = "exact",
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> BrickCollection:
    """Build the model that is stored somewhere.

    Args:
        source: A folder, a zoo model, a repo of the Hub or a lock: see `sources.py`; or the JSON values of a lock.
        revision: Of a repo: a branch, tag or commit.
        bricks: Only these, by path or place; of a repo, nothing else is fetched.
        check: How well heads must fit the backbone, see `fits`. A head that was saved beside a changed backbone is a
            warning.
        local_files_only: Look only into huggingface_hub's cache.
        token: As huggingface_hub takes it.

    Raises:
        UnknownNameError: No such model, or a part that is not registered here.
        BrickNotFoundError: A manifest or brick is absent.
        BrickMismatchError: A brick does not fit the backbone, or weights do not fit their brick.
        BrickIntegrityError: A file is not what its hash says.
        UnsafeBrickError: A pickle, a bad name, a format too new.
        huggingface_hub's own errors for repos, revisions and tokens.
    """
    access = Access(token, local_files_only)
    if isinstance(source, Mapping):
        files: Files = LockFiles(dump(source).encode(), "the lock", access)
        return load_pretrained(files, only=bricks, check=check)
    files, path = open_source(source, revision=revision, access=access)
    return load_pretrained(files, only=path or None if bricks is None else bricks, check=check)


def load_brick(uri: str, *, token: str | bool | None = None, local_files_only: bool = False) -> Brick:
    """One brick with its weights; the arguments and errors are those of `inspect_brick`.

    Raises:
        BrickIntegrityError: The weights are not what the JSON says.
    """
    return restore(inspect_brick(uri, token=token, local_files_only=local_files_only))


def find_brick(files: Files, path: str) -> BrickInfo:
    """The brick at a path, or the head in a place, with one reading where it is what its name says."""
    names = [f"{path}/head", path] if "/" not in path and path != BACKBONE else [path, f"{path}/head"]
    for name in names:
        try:
            return _info(name, files, files.peek(f"{name}.json"))
        except (BrickNotFoundError, LocalEntryNotFoundError):  # without network, it may be the other name
            continue
    manifest, files = read_manifest(files)  # it may be a reference, or timm's
    for name in names:
        if name in manifest.bricks:
            return read_bricks(files, name)[1][name]
    raise BrickNotFoundError(f"No brick '{path}' in {files.location}. There are: {', '.join(manifest.bricks)}.")


def read_manifest(files: Files) -> tuple[Manifest, Files]:
    """A model's manifest, and the files that it is about: those of timm are read as bricks.

    Raises:
        BrickNotFoundError: Neither a manifest nor timm's configuration.
        UnsafeBrickError, BrickIntegrityError, BrickMismatchError: It is not as brickyard writes it.
    """
    try:
        content = files.peek(MANIFEST)
    except BrickNotFoundError as absent:
        try:
            files = TimmFiles(files)
        except BrickNotFoundError:
            raise absent from None
        content = files.peek(MANIFEST)
    location = f"{files.location}/{MANIFEST}"
    with files.discarding(MANIFEST):
        return Manifest.from_json(parse(content, location), location), files


def read_bricks(files: Files, only: Iterable[str] | str | None = None) -> tuple[Manifest, dict[str, BrickInfo]]:
    """A model's manifest, and what each of its bricks says, without weights; references are followed.

    Args:
        files: The model's.
        only: Bricks or places; None for all.

    Raises:
        BrickNotFoundError: One of `only` is not there. Else as for `read_manifest`.
    """
    manifest, files = read_manifest(files)
    paths = [*manifest.bricks, *files.unlisted([entry.at for entry in manifest.bricks.values()])]
    wanted = paths if only is None else [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if not any(is_inside(path, name) for path in paths):
            raise BrickNotFoundError(f"No brick '{name}' in {files.location}. There are: {', '.join(paths)}.")
    chosen = [path for path in paths if any(is_inside(path, name) for name in wanted)]
    prefixes = _places({path: manifest.bricks.get(path) for path in chosen}, files)
    _fetch([(files, MANIFEST), *((at_files, f"{at}.json") for at_files, at in prefixes.values())])
    found = {}
    for path, (at_files, at) in prefixes.items():
        entry = manifest.bricks.get(path)
        content = at_files.peek(f"{at}.json") if entry is None or entry.brick is None else dump(entry.brick).encode()
        found[path] = _info(at, at_files, content)
        if entry is not None and (entry.brick is not None or found[path].uri is not None):
            _check_entry(found[path], entry)
    return manifest, found


def load_pretrained(
    files: Files, *, only: Iterable[str] | str | None = None, check: Check = "exact"
) -> BrickCollection:
    """Build the model that files hold; weights are mapped from them and read when they are used.

    Raises:
        BrickMismatchError: A brick does not fit the backbone, or weights do not fit their brick.
        Else as for `inspect_brick` and `load_brick`.
    """
    manifest, bricks = read_bricks(files, only)
    found = {path: with_hashes(info) for path, info in bricks.items()}
    listed = [path for path, info in found.items() if _is_listed(info, manifest.bricks.get(path))]
    if BACKBONE in found:
        backbone = found[BACKBONE]
        provided = Backbone(backbone.provides, (backbone.weights or {}).get("sha256"))
        for path, info in found.items():
            _check_fit(path, info, provided, check, path in listed)
    _fetch([(info.files, f"{info.path}{SUFFIX}") for info in found.values() if info.weights])
    model = BrickCollection.of_new({path: restore(info) for path, info in found.items()})
    others = [path for path in found if path not in listed]
    if others:
        warnings.warn(
            f"{files.location}: {others} are not as {MANIFEST} names them; they fit, and are used.", stacklevel=4
        )
    return model


def build_on_meta(bricks: Mapping[str, BrickInfo]) -> BrickCollection:
    """The model that stored bricks make, with neither memory nor weights; the errors are those of `make_brick`."""
    with torch.device("meta"):
        made = {p: make_brick(info.config, f"{info.files.location}/{info.path}.json") for p, info in bricks.items()}
    return BrickCollection.of_new(made)


def restore(info: BrickInfo) -> Brick:
    """The brick that was stored, with its weights; the errors are those of `load_brick`."""
    info = with_hashes(info)
    location = f"{info.files.location}/{info.path}.json"
    with uninitialised():
        brick = make_brick(info.config, location)
    dtypes = {}
    if info.weights is not None:
        if brick.module is None:
            raise BrickMismatchError(location, ["it has weights, but what it wraps is no module"])
        tensors = info.files.tensors(info.path, info.weights["sha256"], info.weights["size"])
        with well_formed(location):
            dtypes = assign_weights(brick.module, tensors, f"brick '{info.path}' of {info.files.location}")
    elif brick.module is not None and brick.module.state_dict():
        raise BrickMismatchError(location, ["it has parameters or buffers, but no weights are stored"])
    brick.provenance = Provenance(info.config, info.sha256, info.uri, dtypes)
    return brick


def with_hashes(info: BrickInfo) -> BrickInfo:
    """The same with every hash; for what timm stored, that takes its weights."""
    config = info.files.with_hashes(info.path, info.config)
    return info if config is info.config else replace(info, config=config)


def _check_fit(path: str, info: BrickInfo, backbone: Backbone, check: Check, is_listed: bool) -> None:
    """Refuse a brick that does not fit; one that was saved beside a backbone that changed meanwhile is only told."""
    with well_formed(f"{info.files.location}/{info.path}.json"):
        found = problems(info.config, backbone, check)
        if is_listed and check == "exact" and found and not problems(info.config, backbone, "input"):
            warnings.warn(f"Brick '{path}' of {info.files.location} is stale: {'; '.join(found)}.", stacklevel=5)
        else:
            refuse(f"Brick '{path}' of {info.files.location}", found, check)


def _info(path: str, files: Files, content: bytes) -> BrickInfo:
    location = f"{files.location}/{path}.json"
    with files.discarding(f"{path}.json"):
        config = parse(content, location)
        check_fields(config, location)
    return BrickInfo(path, config, hashlib.sha256(content).hexdigest(), files)


def _places(entries: Mapping[str, Entry | None], files: Files) -> dict[str, tuple[Files, str]]:
    """Where each brick is: its files, and its name there. References into one model share its files."""
    opened: dict[str, Files] = {}
    prefixes = {}
    for path, entry in entries.items():
        reference = PUBLISHED.fullmatch(entry.at) if entry is not None else None
        if reference is None or (entry is not None and entry.brick is not None):
            prefixes[path] = files, entry.at if entry is not None and entry.brick is None else path
            continue
        if reference["model"] not in opened:
            opened[reference["model"]] = _opened(reference["model"], reference["path"], files.access)
        prefixes[path] = opened[reference["model"]], reference["path"]
    return prefixes


def _fetch(names: Iterable[tuple[Files, str]]) -> None:
    """Have files on disk, those of one model together."""
    wanted: dict[int, tuple[Files, list[str]]] = {}
    for files, name in names:
        wanted.setdefault(id(files), (files, []))[1].append(name)
    for files, together in wanted.values():
        files.fetch(together)


def _check_entry(info: BrickInfo, entry: Entry) -> None:
    """Refuse a published brick that is not the one of the manifest; in a folder of his own, a user may have put it."""
    if not _is_listed(info, entry):
        info.files.discard(f"{info.path}.json")
        found = f"{info.sha256} and weights {(info.weights or {}).get('sha256')}"
        raise BrickIntegrityError(
            f"{info.files.location}/{info.path}.json has the sha256 {found}, expected {entry.config} and "
            f"{entry.weights}. Fetch it again."
        )


def _is_listed(info: BrickInfo, entry: Entry | None) -> bool:
    """Whether a brick is the one that the manifest names."""
    if entry is None or info.sha256 != entry.config:
        return False
    return isinstance(info.files, TimmFiles) or (info.weights or {}).get("sha256") == entry.weights


def _opened(model: str, path: str, access: Access) -> Files:
    """The files of a model that references lead to."""
    try:
        files, _ = open_source(model, access=access)
    except HfUriError as error:
        raise UnsafeBrickError(f"{model}/{path} is a reference to no repo: {error}") from None
    try:
        files.peek(f"{path}.json")
    except BrickNotFoundError:
        files = read_manifest(files)[1]
        if not isinstance(files, TimmFiles):
            raise UnsafeBrickError(f"{model}/{path} is a reference to a reference, or to nothing.") from None
    return files
