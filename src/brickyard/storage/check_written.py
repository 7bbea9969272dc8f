"""Check what is about to be stored as a reader will check it, before it replaces anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brickyard.errors import BrickInputError, BrickMismatchError
from brickyard.storage.config import check_fields
from brickyard.storage.fit import BrickInfo
from brickyard.storage.manifest import FORMAT, MANIFEST, Manifest, dump, parse
from brickyard.storage.meta import brick_on_meta, build_for_weights
from brickyard.storage.sources.files import MAX_JSON_SIZE
from brickyard.storage.tensor_file import SUFFIX, open_tensors
from brickyard.storage.weights import weight_problems
from brickyard.storage.wrappers import plain_state


def checked_text(path: str, config: Mapping[str, Any]) -> str:
    """Return the JSON of a brick as text.

    Args:
        path: The path of the brick, for errors.
        config: The JSON values.

    Raises:
        BrickInputError: A field is not made of JSON values, or the JSON is too large.
        UnsafeBrickError, BrickMismatchError: A field is nested too deeply, or of another type than it has to be.
    """
    for name, value in config.items():
        field = f"brick '{path}', field '{name}'"
        parse(_encoded({"format": FORMAT, name: value}, field), field)
    content = _encoded(config, f"brick '{path}'")
    check_fields(parse(content, f"brick '{path}'"), f"brick '{path}'")
    return content.decode()


def manifest_text(manifest: Manifest) -> str:
    """Return the JSON of a manifest as text; errors as for `Manifest.from_json`."""
    content = _encoded(manifest.to_json(), MANIFEST)
    Manifest.from_json(parse(content, MANIFEST), MANIFEST)
    return content.decode()


def check_loads(info: BrickInfo, folder: Path) -> None:
    """Check that a brick can be built from its JSON, and that its weights fit.

    Args:
        info: The brick.
        folder: The folder with the file of its weights.

    Raises:
        BrickMismatchError, UnsafeBrickError: It could not be loaded.
    """
    try:
        brick = brick_on_meta(info)
    except BrickMismatchError:  # not every part can be built on the meta device
        brick = build_for_weights(info)
    state = {} if brick.module is None else plain_state(brick.module)
    if info.weights is None:
        reasons = [f"'{key}' of the part, as its arguments build it, is missing" for key in state]
    else:
        with open_tensors(folder / f"{info.path}{SUFFIX}") as file:
            reasons = weight_problems(state, file.header)
    if reasons:
        hint = "The module was changed after it was built: build it with the arguments that it has to have"
        raise BrickMismatchError(f"The weights of brick '{info.path}' do not fit its part. {hint}", reasons)


def _encoded(values: Mapping[str, Any], what: str) -> bytes:
    try:
        content = dump(values).encode()
    except (TypeError, ValueError, RecursionError) as error:
        expected = "JSON values: text, finite numbers, booleans, None, and lists and dictionaries of them"
        raise BrickInputError(what, expected, f"{type(error).__name__}: {error}") from None
    if len(content) > MAX_JSON_SIZE:
        raise BrickInputError(what, f"at most {MAX_JSON_SIZE} bytes of JSON", f"{len(content)}")
    return content
