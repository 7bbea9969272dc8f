"""Check every file of a stored model against its hashes."""

from __future__ import annotations

import os

from brickyard.core.names import is_inside
from brickyard.errors import BrickError
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.read import StoredBrick, find_brick, read_bricks, read_manifest
from brickyard.storage.sources.files import Access, Files
from brickyard.storage.sources.uri import open_source
from brickyard.storage.tensor_file import SUFFIX


def verify(
    source: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> tuple[list[str], list[str]]:
    """Read and hash every file of a model, or of a part of it; files on the Hub are downloaded.

    Args:
        source: A folder, a zoo model, a repo of the Hub or a lock, or a path in one; see `storage.sources.uri`.
        revision: The branch, tag or commit of a repo.
        token: A token of the Hub, as for huggingface_hub.

    Returns:
        The paths of the bricks that were checked, and one sentence per problem.

    Raises:
        BrickNotFoundError, UnsafeBrickError, BrickIntegrityError, BrickMismatchError: There is no readable manifest.
        huggingface_hub's own errors for repos, revisions and tokens.
    """
    files, prefix = open_source(source, revision=revision, access=Access(token))
    return files.whole(lambda: _verify(files, prefix))


def _verify(files: Files, prefix: str) -> tuple[list[str], list[str]]:
    manifest, files = read_manifest(files)
    files.fetch({MANIFEST: None})
    unlisted = files.unlisted([entry.at for entry in manifest.bricks.values()])
    paths = [path for path in [*manifest.bricks, *unlisted] if not prefix or is_inside(path, prefix)]
    problems = [f"{path}: {MANIFEST} does not list it" for path in unlisted if path in paths]
    for path in paths:
        try:
            stored = find_brick(files, path) if path in unlisted else read_bricks(files, path)[1][path]
            entry = manifest.bricks.get(path)
            if entry is not None and stored.info.sha256 != entry.config:
                problems.append(f"{path}: expected a JSON with sha256 {entry.config}, found {stored.info.sha256}")
            _check_weights(stored)
        except BrickError as error:
            problems.append(f"{path}: {error}")
    return paths, problems


def _check_weights(stored: StoredBrick) -> None:
    weights = stored.info.weights
    if weights is not None and weights["sha256"] is not None:
        stored.files.checked(f"{stored.info.path}{SUFFIX}", weights["sha256"], weights["size"], afresh=True)
