"""What a user may name as the place of a model or of a brick in it.

path/to/model, path/to/model/seg, local-dir:path     a folder, or a place in it
tf_efficientnet_lite0_cls.in1k                       a model of the zoo
zoo://tf_efficientnet_lite0_cls.in1k/cls             a place in it
hf://user/repo@rev/seg, hf-hub:user/repo@rev         a repo of the Hub, or a place in it; @rev may be left out
user/repo                                            the same, where no folder has this name
model.lock.json                                      a lock: the manifest alone, every brick in it by reference
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import parse_hf_uri

from brickyard.core.names import prefixes
from brickyard.errors import BrickInputError, BrickNotFoundError, UnknownNameError, UnsafeBrickError
from brickyard.storage.atomic import current
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.sources.files import DEFAULT_ACCESS, Access, Files, FolderFiles, LockFiles, read_small
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.sources.zoo import zoo_folders

_REPO = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.A)
_PATH = re.compile(r"(\w+(/\w+)*)?", re.A)


_SCHEMES = ("local-dir:", "zoo://", "hf-hub:", "hf://")
_LOCK = ".json"


def is_source(text: str) -> bool:
    """Whether a text says by its form that it is a place, and no model's name."""
    return text.startswith(_SCHEMES) or text.endswith(_LOCK)


def locate(source: str | os.PathLike[str]) -> str:
    """The same source for `create_model`, wherever it is called: what is stored on this machine by its full path.

    A folder wins over a model's name only if it holds a model; what is given as a path is never a name.
    """
    text = os.fspath(source)
    place = text.removeprefix("local-dir:")
    if text.endswith((_LOCK, ".onnx")) and not is_source(text.removesuffix(_LOCK)):
        return os.path.abspath(text)
    is_folder = place != text or not isinstance(source, str) or current(Path(text), MANIFEST).is_file()
    return f"local-dir:{os.path.abspath(place)}" if is_folder else text


def open_source(
    source: str | os.PathLike[str], *, revision: str | None = None, access: Access = DEFAULT_ACCESS
) -> tuple[Files, str]:
    """Find the files that a source names; nothing is read yet.

    Args:
        source: See above.
        revision: Of a repo of the Hub: a branch, tag or commit, where the source has none.
        access: How the Hub is asked.

    Returns:
        The files, and the brick or the place in them that is meant, "" for all.

    Raises:
        UnknownNameError: No zoo model has this name, and it is no folder.
        UnsafeBrickError: The place in the model is no name of bricks.
        huggingface_hub's HfUriError: A malformed URI.
    """
    text = os.fspath(source)
    if text.startswith("local-dir:"):
        return _folder(Path(text.removeprefix("local-dir:")), access)
    if text.startswith("zoo://"):
        name, _, path = text.removeprefix("zoo://").partition("/")
        return _zoo(name, access), _checked(path, text)
    if text.startswith("hf-hub:"):
        text = f"hf://{text.removeprefix('hf-hub:')}"
    if text.startswith("hf://"):
        return _repo(text, revision, access)
    return _by_itself(text, not isinstance(source, str), revision, access)


def _by_itself(text: str, is_path: bool, revision: str | None, access: Access) -> tuple[Files, str]:
    """The files of a source without a scheme: what is on this machine comes first."""
    there = Path(text)
    if text.endswith(_LOCK) and not there.is_dir():
        if not there.is_file():
            raise BrickNotFoundError(f"No lock {text}. `brickyard lock` writes one.")
        return LockFiles(read_small(there), text, access), ""
    if is_path or _root(there):
        return _folder(there, access)
    if text in zoo_folders():
        return _zoo(text, access), ""
    if there.exists():
        return _folder(there, access)
    if _REPO.fullmatch(text):
        return _repo(f"hf://{text}", revision, access)
    hint = "Neither is it a folder, nor a repo of the Hub: hf://user/repo."
    raise UnknownNameError("model", text, zoo_folders(), hint)


def _repo(text: str, revision: str | None, access: Access) -> tuple[Files, str]:
    uri = parse_hf_uri(text)
    if uri.type != "model":
        raise BrickInputError(text, "a repo of the type model", f"the type {uri.type}")
    if uri.revision and revision and uri.revision != revision:
        raise BrickInputError(text, f"the revision '{uri.revision}', which stands in it", f"{revision=}")
    path, revision = _checked(uri.path_in_repo.rstrip("/"), text), uri.revision or revision
    if revision and ".." in revision.split("/"):
        raise UnsafeBrickError(f"'{text}' names the revision '{revision}', which leads out of the cache.")
    return HubFiles(uri.id, revision, access), path


def _root(path: Path) -> Path | None:
    """The model's folder that a path is, or leads into."""
    around = (path, *path.parents[: len(prefixes(path.as_posix()))])
    return next((folder for folder in around if current(folder, MANIFEST).is_file()), None)


def _folder(path: Path, access: Access) -> tuple[Files, str]:
    """The model's folder that a path leads into, and the rest of the path."""
    root = _root(path)
    if root is not None:
        inside = path.relative_to(root).as_posix()
        return FolderFiles(root, access), "" if inside == "." else _checked(inside, str(path))
    if not path.exists():
        raise BrickNotFoundError(f"No folder {path}. A model's folder has {MANIFEST} and a JSON for each brick.")
    return FolderFiles(path, access), ""


def _zoo(name: str, access: Access) -> FolderFiles:
    folders = zoo_folders()
    if name not in folders:
        raise UnknownNameError("zoo model", name, folders)
    return FolderFiles(folders[name], access, name)


def _checked(path: str, source: str) -> str:
    if not _PATH.fullmatch(path):
        raise UnsafeBrickError(f"'{source}' leads to '{path}', which cannot be a brick: letters, digits, underscores.")
    return path
