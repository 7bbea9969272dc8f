"""Read stored models and bricks: a manifest, and a JSON and a safetensors file for each brick.

    bricks.json                              the manifest: path, hashes and size of each brick, in order
    backbone.json   backbone.safetensors
    cls/head.json   cls/head.safetensors
    cls/loss.json                            a brick without tensors has only its JSON

A saved model, a model of the zoo and a repo of the Hub have the same files. JSON is read before weights, so that a
brick that does not fit is refused before its weights are downloaded.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from brickyard.core.brick import Brick
from brickyard.core.graph import set_paths
from brickyard.core.modules import BrickModule
from brickyard.core.names import is_inside
from brickyard.core.provenance import Provenance
from brickyard.errors import BrickError, BrickIntegrityError, BrickMismatchError, BrickNotFoundError, UnsafeBrickError
from brickyard.recipe.inspection import BACKBONE
from brickyard.storage.config import OF_WEIGHTS, check_fields, make_brick, well_formed
from brickyard.storage.fit import Backbone, BrickInfo, Check, problems, refuse
from brickyard.storage.manifest import MANIFEST, PUBLISHED, Entry, Manifest, dump, parse
from brickyard.storage.meta import PlannedBrick, build_for_weights, plan_brick
from brickyard.storage.sources.files import Access, Files, LockFiles
from brickyard.storage.sources.timm import TimmFiles
from brickyard.storage.sources.uri import open_source
from brickyard.storage.tensor_file import SUFFIX
from brickyard.storage.weights import assign_weights, set_tensors


@final
@dataclass(frozen=True)
class StoredBrick:
    """A stored brick and the files that it was read from.

    Attributes:
        info: Its JSON.
        files: The files of its model.
    """

    info: BrickInfo
    files: Files

    def with_hashes(self) -> StoredBrick:
        """Return the same brick with the hash of its weights; weights that timm stored are downloaded for it."""
        config = self.files.with_hashes(self.info.path, self.info.config)
        return self if config is self.info.config else replace(self, info=replace(self.info, config=config))


def inspect_brick(uri: str, *, token: str | bool | None = None, local_files_only: bool = False) -> BrickInfo:
    """Read the JSON of a stored brick, about a kilobyte; no weights are downloaded.

    Args:
        uri: The source of a brick or a head, such as `hf://user/repo/seg`; see `storage.sources.uri`.
        token: A token of the Hub, as for huggingface_hub.
        local_files_only: Look only into the cache of huggingface_hub.

    Raises:
        BrickNotFoundError: There is no such brick.
        UnsafeBrickError, BrickIntegrityError, BrickMismatchError: The JSON is not as brickyard writes it.
        huggingface_hub's own errors for repos, revisions and tokens.
    """
    files, path = open_source(uri, access=Access(token, local_files_only))
    return files.whole(lambda: find_brick(files, path or BACKBONE).info)


def load_brick(uri: str, *, token: str | bool | None = None, local_files_only: bool = False) -> Brick:
    """Load one brick with its weights; arguments and errors as for `inspect_brick`.

    Raises:
        BrickIntegrityError: The weights do not have the hash that the JSON states.
    """
    files, path = open_source(uri, access=Access(token, local_files_only))
    return files.whole(lambda: restore(find_brick(files, path or BACKBONE)))


def load_source(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    revision: str | None = None,
    bricks: str | Iterable[str] | None = None,
    check: Check = "exact",
    access: Access,
) -> dict[str, Brick]:
    """Load the bricks of a stored model by path; see `BrickCollection.from_pretrained`."""
    if isinstance(source, Mapping):
        return load_files(LockFiles(dump(source).encode(), "the lock", access), only=bricks, check=check)
    files, path = open_source(source, revision=revision, access=access)
    return load_files(files, only=path or None if bricks is None else bricks, check=check)


def load_files(files: Files, *, only: Iterable[str] | str | None = None, check: Check = "exact") -> dict[str, Brick]:
    """Load the bricks of a model by path; each tensor in memory of its own.

    Args:
        files: The files of the model.
        only: Paths or prefixes of bricks, None for all.
        check: How strictly heads are compared with the backbone, see `fits`.

    Raises:
        BrickMismatchError: A brick does not fit the backbone, or weights do not fit their brick.
        BrickNotFoundError, UnsafeBrickError, BrickIntegrityError: As for `read_bricks` and `load_brick`.
    """
    bricks, notices = files.whole(lambda: _load(files, only, check))
    for notice in notices:
        warnings.warn(notice, stacklevel=4)
    return bricks


def _load(files: Files, only: Iterable[str] | str | None, check: Check) -> tuple[dict[str, Brick], list[str]]:
    """Return the bricks, and the warnings to give."""
    manifest, stored = read_bricks(files, only)
    stored = {path: brick.with_hashes() for path, brick in stored.items()}
    unlisted = [path for path, brick in stored.items() if not _is_listed(brick, manifest.bricks.get(path))]
    notices = []
    if BACKBONE in stored:
        info = stored[BACKBONE].info
        backbone = Backbone(info.provides, (info.weights or {}).get("sha256"))
        for path, brick in stored.items():
            notices += _check_fit(path, brick.info, backbone, check, path not in unlisted)
    _fetch(
        [
            (each.files, f"{each.info.path}{SUFFIX}", each.info.weights["size"])
            for each in stored.values()
            if each.info.weights
        ]
    )
    restored = {path: restore(brick) for path, brick in stored.items()}
    if unlisted:
        notices.append(f"{files.location}: {unlisted} differ from {MANIFEST}; they fit the model and are used.")
    return set_paths(restored), notices


def find_brick(files: Files, path: str) -> StoredBrick:
    """Return the brick at a path, or the head of that name, with one request if its file has the expected name.

    Raises:
        BrickNotFoundError: There is no such brick. Other errors as for `read_bricks`.
    """
    names = [f"{path}/head", path] if "/" not in path and path != BACKBONE else [path, f"{path}/head"]
    for name in names:
        try:
            return parse_brick(name, files, files.peek(f"{name}.json"))
        except (BrickNotFoundError, FileNotFoundError):  # without network, only the other name may be cached
            continue
    manifest, files = read_manifest(files)  # it may be a reference, or a model of timm
    for name in names:
        if name in manifest.bricks:
            return read_bricks(files, name)[1][name]
    raise BrickNotFoundError.of(path, files.location, manifest.bricks)


def parse_brick(path: str, files: Files, content: bytes) -> StoredBrick:
    """Return the brick at a path from the content of its JSON file; errors as for `inspect_brick`."""
    location = f"{files.location}/{path}.json"
    with files.discarding(f"{path}.json"):
        config = parse(content, location)
        check_fields(config, location)
    sha256 = hashlib.sha256(content).hexdigest()
    return StoredBrick(BrickInfo(path, config, sha256, files.location, files.uri(path)), files)


def read_manifest(files: Files) -> tuple[Manifest, Files]:
    """Read the manifest of a model; a model that timm stored is presented as bricks.

    Returns:
        The manifest, and the files that its names refer to.

    Raises:
        BrickNotFoundError: There is neither a manifest nor a configuration of timm.
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
        manifest = Manifest.from_json(parse(content, location), location)
    files.check_name(manifest.collection)
    return manifest, files


def read_bricks(files: Files, only: Iterable[str] | str | None = None) -> tuple[Manifest, dict[str, StoredBrick]]:
    """Read the manifest of a model and the JSON of its bricks, without weights; references are followed.

    Args:
        files: The files of the model.
        only: Paths or prefixes of bricks, None for all.

    Raises:
        BrickNotFoundError: One of `only` does not exist. Other errors as for `read_manifest`.
    """
    manifest, files = read_manifest(files)
    paths = [*manifest.bricks, *files.unlisted([entry.at for entry in manifest.bricks.values()])]
    chosen = paths
    if only is not None:
        wanted = [only] if isinstance(only, str) else list(only)
        for name in wanted:
            if not any(is_inside(path, name) for path in paths):
                raise BrickNotFoundError.of(name, files.location, paths)
        chosen = [path for path in paths if any(is_inside(path, name) for name in wanted)]
    entries = {path: manifest.bricks.get(path) for path in chosen}
    located = _locate(entries, files)
    _fetch([(files, MANIFEST, None), *((at_files, f"{at}.json", None) for at_files, at in located.values())])
    return manifest, {path: _read(*located[path], entries[path]) for path in chosen}


def read_entries(files: Files, entries: Mapping[str, Entry]) -> dict[str, StoredBrick]:
    """Read the JSON of bricks of a manifest, without a download for later use; errors as for `read_bricks`."""
    return {path: _read(*source, entries[path]) for path, source in _locate(entries, files).items()}


def build_fresh(bricks: Mapping[str, BrickInfo]) -> dict[str, Brick]:
    """Build stored bricks with fresh weights, all trainable; errors as for `make_brick`."""
    built = set_paths({path: make_brick(info.config, info.file) for path, info in bricks.items()})
    for path, brick in built.items():
        if bricks[path].weights is not None:
            brick.metadata = {key: value for key, value in brick.metadata.items() if key not in OF_WEIGHTS}
            if isinstance(brick, BrickModule):
                brick.unfreeze()
    return built


def restore(stored: StoredBrick) -> Brick:
    """Build a stored brick with its weights; errors as for `load_brick`."""
    stored = stored.with_hashes()
    info = stored.info
    what = f"brick '{info.path}' of {info.location}"
    with torch.device("cpu"):
        planned = plan_brick(info)
        if info.weights is None:
            return _without_weights(info)
        tensors = stored.files.tensors(info.path, info.weights, partial(_check_planned, planned, what))
        if planned is not None and planned.is_whole and planned.state is not None:
            brick, dtypes = planned.brick, set_tensors(planned.state, tensors)
        else:
            brick = build_for_weights(info)
            if brick.module is None:
                raise BrickMismatchError(info.file, ["it has weights, but wraps no module"])
            with well_formed(info.file):
                dtypes = assign_weights(brick.module, tensors, what)
    brick.provenance = Provenance(info.config, info.sha256, info.uri, dtypes)
    return brick


def _check_planned(planned: PlannedBrick | None, what: str, header: Mapping[str, Tensor]) -> None:
    """Compare a brick with the tensors of its file, before any is read."""
    if planned is not None and (reasons := planned.problems(header)):
        raise BrickMismatchError(f"The weights do not fit {what}", reasons)


def _without_weights(info: BrickInfo) -> Brick:
    brick = make_brick(info.config, info.file)
    if brick.module is not None and brick.module.state_dict():
        raise BrickMismatchError(info.file, ["its module has parameters or buffers, but no weights are stored"])
    brick.provenance = Provenance(info.config, info.sha256, info.uri)
    return brick


def fetch_brick(stored: StoredBrick) -> Brick:
    """Download the files of a brick and build it; errors as for `load_brick`."""
    weights = {f"{stored.info.path}{SUFFIX}": stored.info.weights["size"]} if stored.info.weights else {}
    stored.files.fetch({f"{stored.info.path}.json": None, **weights})
    return restore(stored)


def _check_fit(path: str, info: BrickInfo, backbone: Backbone, check: Check, is_listed: bool) -> list[str]:
    """Refuse a brick that does not fit; return the warning of one that was saved after its backbone had changed."""
    with well_formed(info.file):
        reasons = problems(info.config, backbone, check)
        if is_listed and check == "exact" and reasons and not problems(info.config, backbone, "input"):
            return [f"Brick '{path}' of {info.location} is stale: {'; '.join(reasons)}."]
        refuse(f"Brick '{path}' of {info.location}", reasons, check)
        return []


def _read(files: Files, at: str, entry: Entry | None) -> StoredBrick:
    """Read the JSON of a brick and compare it with its entry."""
    content = files.peek(f"{at}.json") if entry is None or entry.brick is None else dump(entry.brick).encode()
    stored = parse_brick(at, files, content)
    if entry is not None and (entry.brick is not None or stored.info.uri is not None):
        _check_entry(stored, entry)
    return stored


def _locate(entries: Mapping[str, Entry | None], files: Files) -> dict[str, tuple[Files, str]]:
    """Return the files and the name in them of each brick; references into one model share its files."""
    opened: dict[str, Files] = {}
    located = {}
    for path, entry in entries.items():
        reference = PUBLISHED.fullmatch(entry.at) if entry is not None else None
        if reference is None or (entry is not None and entry.brick is not None):
            located[path] = files, entry.at if entry is not None and entry.brick is None else path
            continue
        if reference["model"] not in opened:
            opened[reference["model"]] = _open_reference(reference["model"], reference["path"], files.access)
        located[path] = opened[reference["model"]], reference["path"]
    return located


def _fetch(names: Iterable[tuple[Files, str, int | None]]) -> None:
    """Download files of these names and sizes, those of one model together."""
    wanted: dict[int, tuple[Files, dict[str, int | None]]] = {}
    for files, name, size in names:
        wanted.setdefault(id(files), (files, {}))[1][name] = size
    for files, together in wanted.values():
        files.fetch(together)


def _check_entry(stored: StoredBrick, entry: Entry) -> None:
    """Refuse a published brick that is not the one in the manifest; files in a local folder may be replaced by hand."""
    info = stored.info
    if not _is_listed(stored, entry):
        stored.files.discard(f"{info.path}.json")
        found = f"{info.sha256} and weights {(info.weights or {}).get('sha256')}"
        raise BrickIntegrityError(
            f"{info.file}: expected the sha256 {entry.config} and weights {entry.weights}, found {found}. Download it "
            "again."
        )


def _is_listed(stored: StoredBrick, entry: Entry | None) -> bool:
    """Return whether a brick is the one in the manifest."""
    if entry is None or stored.info.sha256 != entry.config:
        return False
    return isinstance(stored.files, TimmFiles) or (stored.info.weights or {}).get("sha256") == entry.weights


def _open_reference(model: str, path: str, access: Access) -> Files:
    try:
        files, _ = open_source(model, access=access)
    except BrickError:
        raise
    except ValueError as error:  # huggingface_hub's HfUriError
        raise UnsafeBrickError(f"The reference {model}/{path} is not a valid URI: {error}") from None
    try:
        files.peek(f"{path}.json")
    except BrickNotFoundError:
        files = read_manifest(files)[1]
        if not isinstance(files, TimmFiles):
            raise UnsafeBrickError(f"The reference {model}/{path} leads to no file of that model.") from None
    return files
