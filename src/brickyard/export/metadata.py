"""The metadata of an exported file: its heads, its input images and the sha256 of each brick, as text by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self, final

from brickyard.collection import BrickCollection
from brickyard.core.specs import InputSpec
from brickyard.core.tags import Tag
from brickyard.data.geometry import FRAME_FILL
from brickyard.errors import BrickMismatchError, UnsafeBrickError
from brickyard.recipe.inspection import head_metadata, name_of
from brickyard.storage.config import check_fields, describe, well_formed
from brickyard.storage.write import hash_in_memory

_PREFIX = "brickyard."
_MAX_SIDE = 16_384  # pixels: metadata read from a file must not make a reader allocate larger images
_CROP_MODES, _INTERPOLATIONS = (
    ("center", "squash", "border", "letterbox"),
    ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"),
)
PYTHON_TAGS = {Tag.VISUALIZATION, Tag.METRIC, Tag.METRIC_INFERENCE, Tag.METRIC_EXTRA}


@final
@dataclass(frozen=True)
class Part:
    """Which part of a deployed folder a file is.

    Attributes:
        name: "backbone", or the name of the head.
        requires: Of a head, the sha256 of the weights of every brick of the backbone's file that it depends on, by
            path.
    """

    name: str
    requires: Mapping[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class ExportMetadata:
    """The metadata that a program needs to run an exported model.

    Attributes:
        collection: The name of the model, or None.
        image: The expected input images. Values are in [0, 1]: the exported model normalises with the mean and standard
            deviation given in this specification. Stored by `_image_to_json`.
        heads: The metadata of each head: task, variant, labels and further keys of its brick.
        python_bricks: The configurations of the bricks without weights that run in Python on the outputs of the file,
            by path: visualization and metric bricks.
        bricks: The sha256 of the weights of each brick, by path.
        part: Which part of a deployed folder the file is, None for a file with a whole model.
    """

    collection: str | None
    image: InputSpec
    heads: Mapping[str, Mapping[str, Any]]
    python_bricks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bricks: Mapping[str, str] = field(default_factory=dict)
    part: Part | None = None

    def to_text(self) -> dict[str, str]:
        """Serialise to JSON strings by key, as ONNX's `metadata_props` store them."""
        values = {
            "collection": self.collection,
            "image": _image_to_json(self.image),
            "heads": self.heads,
            "python_bricks": self.python_bricks,
            "bricks": self.bricks,
            **({} if self.part is None else {"part": asdict(self.part)}),
        }
        return {f"{_PREFIX}{key}": json.dumps(value, ensure_ascii=False) for key, value in values.items()}

    @classmethod
    def from_text(cls, texts: Mapping[str, str], location: str) -> Self:
        """Parse what `to_text` returned.

        Args:
            texts: JSON strings by key; keys without the prefix `brickyard.` are ignored.
            location: The name of the file, for error messages.

        Raises:
            BrickMismatchError: The metadata is missing or invalid.
        """
        entries = {key.removeprefix(_PREFIX): text for key, text in texts.items() if key.startswith(_PREFIX)}
        if "image" not in entries or "heads" not in entries:
            problems = ["it has no metadata 'brickyard.image' and 'brickyard.heads'"]
            raise BrickMismatchError(f"{location} was not exported by brickyard", problems)
        with well_formed(location):
            values = {key: json.loads(text) for key, text in entries.items()}
            image = _image_from_json(values["image"])
            _check_bricks(values, location)
            part = None if "part" not in values else Part(values["part"]["name"], values["part"]["requires"])
            return cls(values["collection"], image, values["heads"], values["python_bricks"], values["bricks"], part)


def _image_to_json(image: InputSpec) -> dict[str, Any]:
    """Describe what a caller must do with an image, and what the model does inside.

    `resize_mode` is "squash" (resize to `size`), "letterbox" (scale to fit, and pad to `size` with `fill`) or timm's
    name of a crop: "center" (resize the shorter side to its size / `crop_pct`, and crop the center) or "border".
    """
    return {
        "layout": "NCHW",
        "order": {1: "L", 3: "RGB"}.get(image.channels),
        "dtype": "float32",
        "range": [0, 1],
        "channels": image.channels,
        "size": list(image.size),
        "fixed": image.fixed,
        "resize_mode": image.crop_mode,
        "crop_pct": image.crop_pct,
        "interpolation": image.interpolation,
        "fill": FRAME_FILL / 255,
        "normalized_inside": {"mean": list(image.mean), "std": list(image.std)},
    }


def _image_from_json(values: Mapping[str, Any]) -> InputSpec:
    """Read what `_image_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: A value is missing or invalid.
    """
    inside = values["normalized_inside"]
    image = {
        **{key: values[key] for key in ("channels", "fixed", "interpolation", "crop_pct")},
        "size": tuple(values["size"]),
        "crop_mode": values["resize_mode"],
        "mean": tuple(inside["mean"]),
        "std": tuple(inside["std"]),
    }
    _check_image(image)
    return InputSpec(**image)


def _check_image(image: Mapping[str, Any]) -> None:
    """Raise for values that would make a reader create images of arbitrary size, or fail later."""
    sides = [image["channels"], *image["size"]]
    if not all(isinstance(side, int) and 0 < side <= _MAX_SIDE for side in sides) or len(sides) != 3:
        raise ValueError(
            f"expected an image size of 1 to {_MAX_SIDE} pixels, found {image['channels']} channels and {image['size']}"
        )
    if not 0 < image["crop_pct"] <= 1:
        raise ValueError(f"expected crop_pct in (0, 1], found {image['crop_pct']}")
    if image["crop_mode"] not in _CROP_MODES:
        raise ValueError(f"expected resize_mode in {_CROP_MODES}, found {image['crop_mode']!r}")
    if image["interpolation"] not in _INTERPOLATIONS:
        raise ValueError(f"expected interpolation in {_INTERPOLATIONS}, found {image['interpolation']!r}")


def _check_bricks(values: Mapping[str, Any], location: str) -> None:
    for head, metadata in values["heads"].items():
        if missing := {"task", "labels", "variant"} - metadata.keys():
            raise TypeError(f"head '{head}' lacks {sorted(missing)}")
        check_fields(metadata | {"type": "head"}, f"{location}, head '{head}'")
    for key in ("python_bricks", "bricks"):
        if not isinstance(values[key], dict):
            raise TypeError(f"expected an object under '{_PREFIX}{key}', found {type(values[key]).__name__}")
    hashes = [values["bricks"], values["part"]["requires"] if "part" in values else {}]
    if not all(isinstance(sha256, str) for each in hashes for sha256 in each.values()):
        raise TypeError(f"expected a sha256 for each brick, found {hashes}")


def metadata_of(model: BrickCollection, images: InputSpec) -> ExportMetadata:
    """Collect the metadata of a model with its current weights, exported for these images."""
    bricks = model.bricks()
    heads = head_metadata(bricks)
    stored = {path: hash_in_memory(path, brick) for path, brick in bricks.items()}
    hashes = {path: weights["sha256"] for path, weights in stored.items() if weights is not None}
    python_bricks = {}
    for path, brick in bricks.items():
        if brick.tags & PYTHON_TAGS and path not in hashes:
            with suppress(UnsafeBrickError):  # an unregistered module cannot be stored
                python_bricks[path] = describe(brick)
    return ExportMetadata(name_of(bricks), images, heads, python_bricks, hashes)
