"""One brick as JSON, and back: `<name>.json`, which stands alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from brickyard.backbone import BrickBackbone
from brickyard.brick import Brick
from brickyard.errors import BrickError, BrickInputError, BrickMismatchError, UnsafeBrickError
from brickyard.manifest import FORMAT, check_bounded
from brickyard.metrics import BrickMetrics, BrickMetricSingle
from brickyard.modules import BrickLoss, BrickModule, BrickNotTrainable, BrickTrainable
from brickyard.parts.registry import create_part, part_of
from brickyard.visualization import BrickPerImageVisualization

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


def make_brick(config: Mapping[str, Any], where: str) -> Brick:
    """The brick that `describe` described, with fresh weights.

    Args:
        config: JSON values.
        where: Which file they are from, for errors.

    Raises:
        UnsafeBrickError: An unknown kind, or arguments of no sense.
        UnknownNameError: A part that is not registered here.
        BrickMismatchError: A field is absent or of another type.
    """
    with well_formed(where):
        kind = config.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise UnsafeBrickError(f"{where}: the kind is '{kind}', expected one of {sorted(_KINDS)}.")
        if "task" in config and not (isinstance(config["labels"], list) and isinstance(config["variant"], str)):
            raise TypeError("a head's labels are a list, and its variant is a name")
        check_bounded(config["args"], where)
        names = {"input_names": config["inputs"], "tags": config["tags"]}
        if config["outputs"]:
            names["output_names"] = config["outputs"]
        brick = _KINDS[kind](create_part(config["type"], **config["args"]), **names, **config["settings"])
        brick.metadata = {key: value for key, value in config.items() if key not in _FIELDS}
        if isinstance(brick, BrickModule) and config.get("trainable", brick.trainable) != brick.trainable:
            brick.unfreeze() if config["trainable"] else brick.freeze()
        return brick


@contextmanager
def well_formed(where: str) -> Iterator[None]:
    """Turn what a field that is absent or of another type leads to into an error that names the file."""
    try:
        yield
    except BrickError:
        raise
    except Exception as error:  # the arguments go to factories of every kind
        problem = f"{type(error).__name__}: {error}"
        raise BrickMismatchError(f"{where} is not as this version of brickyard writes it", [problem]) from error
