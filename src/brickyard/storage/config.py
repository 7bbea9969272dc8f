"""One brick as JSON, and back: `<name>.json`, which stands alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import count
from typing import Any

from torch.nn.modules.module import register_module_module_registration_hook

from brickyard.core.backbone import BrickBackbone
from brickyard.core.brick import Brick
from brickyard.core.metrics import BrickMetrics, BrickMetricSingle
from brickyard.core.modules import BrickLoss, BrickModule, BrickNotTrainable, BrickTrainable
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.errors import BrickError, BrickInputError, BrickMismatchError, UnsafeBrickError
from brickyard.parts.backbones import BackboneSpec
from brickyard.parts.registry import create_part, part_of
from brickyard.storage.manifest import FORMAT, check_bounded

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
_FIELDS = (
    "format",
    "kind",
    "type",
    "args",
    "settings",
    "inputs",
    "outputs",
    "tags",
    "weights",
    "requires",
    "trainable",
)
_MODULES = 10_000  # no honest brick has more; one with more layers than that would never be built


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
    "image_size": lambda value: _list_of(_is_number)(value) and len(value) == 2,
    "requires": _object_of(lambda value: isinstance(value, dict)),
}


def describe(brick: Brick) -> dict[str, Any]:
    """A brick as JSON values, without what is known of its weights.

    Raises:
        UnsafeBrickError: It wraps something that no registered part describes.
    """
    taken = sorted(set(_FIELDS) & set(brick.metadata))
    if taken:
        expected = "metadata under other keys than a brick's file has"
        raise BrickInputError(f"brick '{brick.path}'", expected, f"{taken}")
    part = part_of(brick.wrapped)
    kind = type(brick).__name__
    if part is None or _KINDS.get(kind) is not type(brick):
        raise UnsafeBrickError(
            f"Brick '{brick.path}' ({kind} of {brick.module_name}) cannot be stored: a file holds no code. Register "
            "what it wraps with `register_part` and make it with `create_part`."
        )
    settings = brick.settings
    names = {
        "inputs": settings.pop("input_names"),
        "outputs": settings.pop("output_names", []),
        "tags": settings.pop("tags"),
    }
    head = {"format": FORMAT, "kind": kind, "type": part.type, "args": part.args, "settings": settings}
    if isinstance(brick, BrickModule):
        head["trainable"] = brick.trainable
    return {**head, **names, **brick.metadata}


def check_fields(config: Mapping[str, Any], location: str) -> None:
    """Refuse a brick's JSON with a field of another type than brickyard writes; unknown fields may be anything.

    Raises:
        BrickMismatchError: Such a field.
    """
    with well_formed(location):
        _check_types(config, type=str)
        for name, is_right in _IS_RIGHT.items():
            if config.get(name) is not None and not is_right(config[name]):
                raise TypeError(f"'{name}' is of another type: {str(config[name])[:100]}")
        if "task" in config and (config["labels"] is None or config["variant"] is None):
            raise TypeError("a head has labels and a variant")
        if (stored := config.get("weights")) is not None:
            _check_types(stored, sha256=str | None, size=int | None)
        if (needs := (config.get("requires") or {}).get("backbone")) is not None:
            _check_types(needs, channels=list, strides=list, sha256=str | None, embedding=int | None)
            _check_types(needs["input"], channels=int, mean=list, std=list)
        if (gives := config.get("provides")) is not None:
            BackboneSpec.from_json(gives)
            _check_types(gives, embedding=int)
            _check_types(gives["features"], channels=list, strides=list)
            _check_types(gives["input"], channels=int, mean=list, std=list)


def _check_types(values: Mapping[str, Any], **types: Any) -> None:
    for name, kind in types.items():
        if not isinstance(values[name], kind):
            raise TypeError(f"'{name}' is of another type: {str(values[name])[:100]}")


def make_brick(config: Mapping[str, Any], location: str) -> Brick:
    """The brick that `describe` described, with fresh weights.

    Args:
        config: JSON values.
        location: Which file they are from, for errors.

    Raises:
        UnsafeBrickError: An unknown kind, or arguments of no sense.
        UnknownNameError: A part that is not registered here.
        BrickMismatchError: A field is absent or of another type.
    """
    with well_formed(location):
        kind = config.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise UnsafeBrickError(f"{location}: the kind is '{kind}', expected one of {sorted(_KINDS)}.")
        check_bounded(config["args"], location)
        names = {"input_names": config["inputs"], "tags": config["tags"]}
        if config["outputs"] or not issubclass(_KINDS[kind], BrickMetrics):  # those write what they are made of
            names["output_names"] = config["outputs"]
        is_timms_own = config["type"] == "timm" and config["args"].keys() <= {"name", "in_chans"}
        with nullcontext() if is_timms_own else of_few_modules(location):  # to count costs time
            part = create_part(config["type"], **config["args"])
        brick = _KINDS[kind](part, **names, **config["settings"])
        brick.metadata = {key: value for key, value in config.items() if key not in _FIELDS}
        if isinstance(brick, BrickModule) and config.get("trainable", brick.trainable) != brick.trainable:
            brick.unfreeze() if config["trainable"] else brick.freeze()
        return brick


@contextmanager
def of_few_modules(location: str) -> Iterator[None]:
    """Refuse, within it and in this thread, to make modules without end."""
    made, thread = count(1), threading.get_ident()

    def counted(*_: Any) -> None:
        if next(made) > _MODULES and threading.get_ident() == thread:
            raise UnsafeBrickError(f"{location}: the arguments ask for more than {_MODULES} modules.")

    handle = register_module_module_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def well_formed(location: str) -> Iterator[None]:
    """Turn what a field that is absent or of another type leads to into an error that names the file."""
    try:
        yield
    except BrickError:
        raise
    except Exception as error:  # the arguments go to factories of every kind
        problem = f"{type(error).__name__}: {error}"
        raise BrickMismatchError(f"{location} is not as this version of brickyard writes it", [problem]) from error
