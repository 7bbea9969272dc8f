"""A brick as JSON and back: the content of `<name>.json`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

from torch.nn.modules.module import register_module_module_registration_hook

from brickyard.core.backbone import BrickBackbone
from brickyard.core.brick import Brick
from brickyard.core.metrics import BrickMetrics, BrickMetricSingle
from brickyard.core.modules import BrickLoss, BrickModule, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import RESIZE_MODES, BackboneSpec, HeadInfo, KeypointSpec, check_class_names
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.errors import BrickError, BrickInputError, BrickMismatchError, UnsafeBrickError
from brickyard.parts.registry import create_part, part_of
from brickyard.storage.manifest import FORMAT, MAX_NUMBER, check_bounded
from brickyard.storage.wrappers import unwrapped

_KINDS: dict[str, type[Brick]] = {
    kind.__name__: kind
    for kind in (
        BrickBackbone,
        BrickLoss,
        BrickMetricSingle,
        BrickMetrics,
        BrickModule,
        BrickNotTrainable,
        BrickPerImageVisualization,
        BrickTrainable,
    )
}
_HEAD_FIELDS = ("task", "variant", "labels", "image_size", "resize_mode", "trained", "weights_tag", "keypoints")
_BRICK_FIELDS = ("format", "kind", "type", "args", "settings", "inputs", "outputs", "tags", "trainable")
_FIELDS = frozenset([*_BRICK_FIELDS, *_HEAD_FIELDS, "weights", "requires", "provides"])  # others are metadata
# Metadata that describes the weights.
OF_WEIGHTS = ("licence", "source", "source_sha256", "metrics", "measured", "datasets")
_TIMM_NUMBER = 65_536  # the largest option of timm, such as an image's side or a number of layers
_MAX_NAMES = 1000  # inputs, outputs or tags of a brick
_MAX_MODULES = 10_000  # arguments that ask for more would take the memory and time of the machine


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _object_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _is_names(value: Any) -> bool:
    return _list_of(_is_text)(value) or _object_of(_is_text)(value)


def _is_keypoints(value: Any) -> bool:
    try:
        KeypointSpec.from_json(value)
    except BrickInputError:
        return False
    return True


_IS_RIGHT: dict[str, Callable[[Any], bool]] = {
    "args": _object_of(lambda value: True),
    "settings": _object_of(lambda value: True),
    "inputs": _is_names,
    "outputs": _list_of(_is_text),
    "tags": _list_of(_is_text),
    "trainable": lambda value: isinstance(value, bool),
    "licence": _is_text,
    "source": _is_text,
    "task": _is_text,
    "variant": _is_text,
    "labels": _list_of(_is_text),
    "metrics": _object_of(_is_number),
    "measured": _is_text,
    "datasets": _list_of(_is_text),
    "image_size": lambda value: _list_of(_is_number)(value) and len(value) == 2,
    "resize_mode": lambda value: value in RESIZE_MODES,
    "requires": _object_of(lambda value: isinstance(value, dict)),
    "trained": lambda value: isinstance(value, bool),
    "weights_tag": _is_text,
    "keypoints": _is_keypoints,
}


def describe(brick: Brick) -> dict[str, Any]:
    """Return a brick as JSON values, without the description of its weights.

    Raises:
        UnsafeBrickError: The brick wraps an object that is not a registered part.
        BrickInputError: A key of its metadata is a field of the format.
    """
    reserved = sorted(_FIELDS & set(brick.metadata))
    if reserved:
        expected = f"metadata without the fields of a brick's file, {sorted(_FIELDS)}"
        raise BrickInputError(f"brick '{brick.path}'", expected, f"{reserved}", "Rename these keys.")
    part = part_of(unwrapped(brick.wrapped))
    kind = type(brick).__name__
    if part is None or _KINDS.get(kind) is not type(brick):
        raise UnsafeBrickError(
            f"Brick '{brick.path}' ({kind} of {brick.module_name}) cannot be stored, since files contain no code. "
            f"Register {brick.module_name} with `register_part` and build it with `create_part`."
        )
    settings = brick.settings
    names = {
        "inputs": settings.pop("input_names"),
        "outputs": settings.pop("output_names", []),
        "tags": settings.pop("tags"),
    }
    config = {"format": FORMAT, "kind": kind, "type": part.type, "args": part.args, "settings": settings}
    if isinstance(brick, BrickModule):
        config["trainable"] = brick.trainable
    config |= names
    if brick.head is not None:
        check_class_names(brick.head.labels, f"brick '{brick.path}'", distinct=False)
        config |= brick.head.to_json()
    if brick.provides is not None:
        config["provides"] = brick.provides.to_json()
    return {**config, **brick.metadata}


def check_fields(config: Mapping[str, Any], location: str) -> None:
    """Check the types of the known fields of a brick's JSON.

    Raises:
        BrickMismatchError: A field is absent or of another type than brickyard writes.
    """
    with well_formed(location):
        _check_types(config, type=str)
        for name, is_right in _IS_RIGHT.items():
            if config.get(name) is not None and not is_right(config[name]):
                raise TypeError(f"unexpected type of '{name}': {str(config[name])[:100]}")
        for name in ("inputs", "outputs", "tags"):
            if len(config.get(name) or ()) > _MAX_NAMES:
                raise UnsafeBrickError(
                    f"{location}: expected at most {_MAX_NAMES} names in '{name}', found {len(config[name])}."
                )
        if "task" in config:
            _check_head(config, location)
        if (stored := config.get("weights")) is not None:
            _check_types(stored, sha256=str | None, size=int | None)
        if (needs := (config.get("requires") or {}).get("backbone")) is not None:
            _check_types(needs, channels=list, strides=list, sha256=str | None, embedding=int | None)
            _check_types(needs["input"], channels=int, mean=list, std=list)
        if (gives := config.get("provides")) is not None:
            BackboneSpec.from_json(gives)
            _check_types(gives, embedding=int)
            if not _list_of(_is_text)(gives.get("block_outputs", [])):
                raise TypeError(f"unexpected type of 'block_outputs': {str(gives['block_outputs'])[:100]}")
            _check_types(gives["features"], channels=list, strides=list)
            _check_types(gives["input"], channels=int, mean=list, std=list)


def _check_head(config: Mapping[str, Any], location: str) -> None:
    if config["labels"] is None or config["variant"] is None:
        raise TypeError("a head must have labels and a variant")
    labels = check_class_names(config["labels"], location, distinct=False)
    if (count := _number_of_classes(config)) not in (None, len(labels)):
        problem = f"labels: expected {count}, one for each class, found {len(labels)}"
        raise BrickMismatchError(f"{location} is not of one head", [problem])


def _number_of_classes(config: Mapping[str, Any]) -> Any:
    """Return the number of classes among the arguments of a head, None for a part that states it otherwise."""
    arguments = config.get("args", {})
    return arguments.get("out_features" if (config["type"], config["task"]) == ("linear", "cls") else "num_classes")


def _check_types(values: Mapping[str, Any], **types: Any) -> None:
    for name, kind in types.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"unexpected type of '{name}': {str(values[name])[:100]}")


def make_brick(config: Mapping[str, Any], location: str) -> Brick:
    """Build the brick that `describe` described, with fresh weights.

    Args:
        config: JSON values.
        location: The file that they are from, for errors.

    Raises:
        UnsafeBrickError: An unknown kind of brick, or arguments out of bounds.
        UnknownNameError: The part is not registered.
        BrickMismatchError: A field is absent or of another type.
    """
    with well_formed(location):
        kind = config.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise UnsafeBrickError(f"{location}: expected a kind of {sorted(_KINDS)}, found '{kind}'.")
        is_timm = config["type"] == "timm"
        check_bounded(config["args"], location, _TIMM_NUMBER if is_timm else MAX_NUMBER)
        if "device" in config["args"]:
            raise UnsafeBrickError(f"{location}: expected arguments without 'device': models are loaded on the CPU.")
        names = {"input_names": config["inputs"], "tags": config["tags"]}
        if config["outputs"] or not issubclass(_KINDS[kind], BrickMetrics):  # metrics name their outputs themselves
            names["output_names"] = config["outputs"]
        with limit_modules(location):
            part = create_part(config["type"], **config["args"])
        brick = _KINDS[kind](part, **names, **config["settings"])
        if config.get("task") is not None:
            brick.head = HeadInfo.from_json(config)
        if config.get("provides") is not None:
            brick.provides = BackboneSpec.from_json(config["provides"])
        brick.metadata = {key: value for key, value in config.items() if key not in _FIELDS}
        if isinstance(brick, BrickModule) and config.get("trainable", brick.trainable) != brick.trainable:
            brick.unfreeze() if config["trainable"] else brick.freeze()
        return brick


@contextmanager
def limit_modules(location: str) -> Iterator[None]:
    """Raise within the block if this thread creates too many modules.

    Raises:
        UnsafeBrickError: More than `_MAX_MODULES` modules.
    """
    created, thread = count(1), threading.get_ident()

    def on_registration(*_: Any) -> None:  # the hook is global, and other threads may create modules as well
        if threading.get_ident() == thread and next(created) > _MAX_MODULES:
            raise UnsafeBrickError(f"{location}: the arguments ask for more than {_MAX_MODULES} modules.")

    handle = register_module_module_registration_hook(on_registration)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def well_formed(location: str) -> Iterator[None]:
    """Convert any exception that malformed fields lead to into an error that names the file."""
    try:
        yield
    except BrickError:
        raise
    except Exception as error:  # stored arguments go to factories that may raise anything
        problem = f"{type(error).__name__}: {error}"
        raise BrickMismatchError(f"{location} is not as this version of brickyard writes it", [problem]) from error
