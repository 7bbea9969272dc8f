"""The forms in which a user names the source of a model or of a brick in it.

path/to/model, path/to/model/seg, local-dir:path     a folder, or a brick or head in it; `~` is the home of the user
tf_efficientnet_lite0_cls.in1k                       a model of the zoo
zoo://tf_efficientnet_lite0_cls.in1k/cls             a brick or head in it
hf://user/repo@rev/seg, hf-hub:user/repo@rev         a repo of the Hub, or a brick or head in it; @rev is optional
user/repo                                            the same, unless there is a folder of this name
model.lock.json                                      a lock: a manifest whose bricks are references

What `export_onnx` wrote is no source of bricks, but is located by the same names: a file `.onnx`, or a folder of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from brickyard.core.names import prefixes
from brickyard.errors import BrickInputError, BrickNotFoundError, UnknownNameError, UnsafeBrickError
from brickyard.storage.atomic import current
from brickyard.storage.manifest import MANIFEST
from brickyard.storage.sources.files import DEFAULT_ACCESS, Access, Files, FolderFiles, LockFiles, read_small
from brickyard.storage.sources.zoo import open_zoo, zoo_folders

_REPO = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.A)
_PATH = re.compile(r"(\w+(/\w+)*)?", re.A)
_LOCK = ".json"


def is_source(text: str) -> bool:
    """Return whether a text is a source by its form, and not the name of a model."""
    return text.startswith(tuple(_SCHEMES)) or text.endswith(_LOCK)


def locate(source: str | os.PathLike[str]) -> str:
    """Return a source for `create_model` that is valid in any working directory: local files by their absolute path.

    A folder takes precedence over the name of a model only if it contains a model; a `Path` is never a name.
    """
    text = os.path.expanduser(source)
    path = os.path.expanduser(text.removeprefix("local-dir:"))
    if is_exported(text) or (text.endswith(_LOCK) and not is_source(text.removesuffix(_LOCK))):
        return os.path.abspath(text)
    is_folder = path != text or not isinstance(source, str) or current(Path(text), MANIFEST).is_file()
    return f"local-dir:{os.path.abspath(path)}" if is_folder else text


def is_exported(source: str | os.PathLike[str]) -> bool:
    """Return whether a path is what `export_onnx` writes: a file `.onnx`, or a folder of them and of no model."""
    text = os.fspath(source)
    if text.endswith(".onnx") and not is_source(text):
        return True
    folder = Path(text)
    if not os.path.isdir(folder) or current(folder, MANIFEST).is_file():
        return False
    return current(folder, "backbone.onnx").is_file() or any(folder.glob("*.onnx"))


def open_source(
    source: str | os.PathLike[str], *, revision: str | None = None, access: Access = DEFAULT_ACCESS
) -> tuple[Files, str]:
    """Find the files that a source names; nothing is read yet.

    Args:
        source: A source in one of the forms above.
        revision: A branch, tag or commit of a repo on the Hub, if the source has none.
        access: How the Hub is accessed.

    Returns:
        The files, and the path or prefix in them, "" for the whole model.

    Raises:
        UnknownNameError: There is neither a zoo model nor a folder of this name.
        UnsafeBrickError: The path in the model is not a valid name of a brick.
        huggingface_hub's HfUriError: A malformed URI.
    """
    text = os.path.expanduser(source)
    for scheme, open_scheme in _SCHEMES.items():
        if text.startswith(scheme):
            return open_scheme(text.removeprefix(scheme), revision, access)
    return _without_scheme(text, not isinstance(source, str), revision, access)


def _without_scheme(text: str, is_path: bool, revision: str | None, access: Access) -> tuple[Files, str]:
    """Find the files of a source without a scheme; local files take precedence."""
    local = Path(text)
    if text.endswith(_LOCK) and not local.is_dir():
        if not local.is_file():
            raise BrickNotFoundError(f"No lock {text}. `brickyard lock` writes one.")
        return LockFiles(read_small(local), text, access), ""
    if is_path or _root(local):
        return _folder(local, access)
    if text in zoo_folders():
        return open_zoo(text, access), ""
    if local.exists():
        return _folder(local, access)
    if _REPO.fullmatch(text):
        return _repo(text, revision, access)
    hint = "There is no such folder either. A repo of the Hub is named hf://user/repo."
    raise UnknownNameError("model", text, zoo_folders(), hint)


def _folder_source(path: str, _revision: str | None, access: Access) -> tuple[Files, str]:
    return _folder(Path(path).expanduser(), access)


def _zoo(text: str, _revision: str | None, access: Access) -> tuple[Files, str]:
    name, _, path = text.partition("/")
    return open_zoo(name, access), _checked(path, f"zoo://{text}")


def _repo(text: str, revision: str | None, access: Access) -> tuple[Files, str]:
    # huggingface_hub takes a while to import, and local models do without it.
    from huggingface_hub import parse_hf_uri  # noqa: PLC0415

    from brickyard.storage.sources.hub import HubFiles  # noqa: PLC0415

    source = f"hf://{text}"
    uri = parse_hf_uri(source)
    if uri.type != "model":
        raise BrickInputError(source, "a repo of the type model", f"the type {uri.type}")
    if uri.revision and revision and uri.revision != revision:
        raise BrickInputError(source, f"the revision '{uri.revision}', as in the source", f"{revision=}")
    path = _checked(uri.path_in_repo.rstrip("/"), source)
    return HubFiles(uri.id, uri.revision or revision, access), path


# The function that opens a source, by the scheme that the source starts with.
_SCHEMES: dict[str, Callable[[str, str | None, Access], tuple[Files, str]]] = {
    "local-dir:": _folder_source,
    "zoo://": _zoo,
    "hf-hub:": _repo,
    "hf://": _repo,
}


def _root(path: Path) -> Path | None:
    """Return the folder of the model that a path is, or leads into."""
    around = (path, *path.parents[: len(prefixes(path.as_posix()))])
    return next((folder for folder in around if current(folder, MANIFEST).is_file()), None)


def _folder(path: Path, access: Access) -> tuple[Files, str]:
    """Return the files of the model that a path leads into, and the rest of the path."""
    root = _root(path)
    if root is not None:
        inside = path.relative_to(root).as_posix()
        return FolderFiles(root, access), "" if inside == "." else _checked(inside, str(path))
    if not path.exists():
        raise BrickNotFoundError(f"No folder {path}. A model's folder has {MANIFEST} and a JSON for each brick.")
    return FolderFiles(path, access), ""


def _checked(path: str, source: str) -> str:
    if not _PATH.fullmatch(path):
        raise UnsafeBrickError(
            f"'{source}' names '{path}', expected the name of a brick: letters, digits, underscores and '/'."
        )
    return path
