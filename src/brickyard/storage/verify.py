"""Whether every file of a stored model is what its hashes say, read afresh."""

from __future__ import annotations

import os

from brickyard.core.names import is_inside
from brickyard.errors import BrickError
from brickyard.storage.fit import BrickInfo
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.read import find_brick, read_bricks, read_manifest
from brickyard.storage.sources.files import Access
from brickyard.storage.sources.uri import open_source
from brickyard.storage.weights import SUFFIX


def verify(
    source: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> tuple[list[str], list[str]]:
    """Read every file of a model, or of a place in it; what the Hub holds is fetched.

    Args:
        source: See `sources.py`.
        revision: Of a repo of the Hub.
        token: As huggingface_hub takes it.

    Returns:
        The bricks that were read, and one sentence for each problem; no problems if all is right.

    Raises:
        BrickNotFoundError, UnsafeBrickError, BrickIntegrityError, BrickMismatchError: There is no readable manifest.
        huggingface_hub's own errors for repos, revisions and tokens.
    """
    files, place = open_source(source, revision=revision, access=Access(token))
    manifest, files = read_manifest(files)
    files.fetch([MANIFEST])
    unlisted = files.unlisted([entry.at for entry in manifest.bricks.values()])
    paths = [path for path in [*manifest.bricks, *unlisted] if not place or is_inside(path, place)]
    problems = [f"{path}: {MANIFEST} does not name it" for path in unlisted if path in paths]
    for path in paths:
        try:
            info = find_brick(files, path) if path in unlisted else read_bricks(files, path)[1][path]
            entry = manifest.bricks.get(path)
            if entry is not None and info.sha256 != entry.config:
                problems.append(f"{path}: its JSON has the sha256 {info.sha256}, {MANIFEST} says {entry.config}")
            _check_weights(info)
        except BrickError as error:
            problems.append(f"{path}: {error}")
    return paths, problems


def _check_weights(info: BrickInfo) -> None:
    if info.weights is not None and info.weights["sha256"] is not None:
        info.files.checked(f"{info.path}{SUFFIX}", info.weights["sha256"], info.weights["size"], afresh=True)
