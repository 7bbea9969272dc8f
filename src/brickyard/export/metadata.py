"""What an exported file says of itself: heads, images and the sha256 of each brick, as text by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self, final

from brickyard.collection import BrickCollection
from brickyard.core.specs import InputSpec
from brickyard.core.tags import Tag
from brickyard.errors import BrickMismatchError, UnsafeBrickError
from brickyard.recipe.inspection import head_metadata, name_of
from brickyard.storage.config import check_fields, describe, well_formed
from brickyard.storage.write import hash_in_memory

_PREFIX = "brickyard."
_SIDE = 16_384  # pixels: no honest model takes larger images
_CROPS, _RESIZES = ("center", "squash", "border"), ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
BESIDE = {Tag.VISUALIZATION, Tag.METRIC, Tag.METRIC_INFERENCE, Tag.METRIC_EXTRA}


@final
@dataclass(frozen=True)
class ExportMetadata:
    """What a program that runs an exported model must know.

    Attributes:
        collection: The model's name, None where it has none.
        image: The images that it takes: channels, size, whether that is fixed, and how pictures are resized. Values are
            in [0, 1]: the file normalises by itself, with the mean and standard deviation that stand here.
        heads: What is known of each head: task, variant, labels, and whatever else its brick says.
        beside: The JSON of the bricks that have no weights and run beside the file, on what it gives: those that draw
            and those that measure, by path.
        bricks: The sha256 of each brick's weights.
    """

    collection: str | None
    image: InputSpec
    heads: Mapping[str, Mapping[str, Any]]
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bricks: Mapping[str, str] = field(default_factory=dict)

    def to_text(self) -> dict[str, str]:
        """Keys and texts, as ONNX has them."""
        return {f"{_PREFIX}{key}": json.dumps(value, ensure_ascii=False) for key, value in asdict(self).items()}

    @classmethod
    def from_text(cls, texts: Mapping[str, str], location: str) -> Self:
        """The facts that `to_text` wrote.

        Raises:
            BrickMismatchError: They are absent, or not as brickyard writes them.
        """
        found = {key.removeprefix(_PREFIX): text for key, text in texts.items() if key.startswith(_PREFIX)}
        if "image" not in found or "heads" not in found:
            raise BrickMismatchError(
                f"{location} was not exported by brickyard", ["it does not say what its heads are"]
            )
        with well_formed(location):
            values = {key: json.loads(text) for key, text in found.items()}
            image: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values["image"].items()
            }
            known = {key: values[key] for key in ("collection", "heads", "beside", "bricks")}
            _check(image, known, location)
            return cls(image=InputSpec(**image), **known)


def _check(image: Mapping[str, Any], known: Mapping[str, Any], location: str) -> None:
    """Refuse what would make a picture of any size, or fail far from here."""
    for head, about in known["heads"].items():
        if not {"task", "labels", "variant"} <= about.keys():
            raise TypeError(f"head '{head}' lacks its task, labels or variant")
        check_fields(about | {"type": "head"}, f"{location}, head '{head}'")
    if not all(isinstance(each, dict) for each in (known["beside"], known["bricks"])):
        raise TypeError("'beside' and 'bricks' are objects")
    sides = [image["channels"], *image["size"]]
    if not all(isinstance(side, int) and 0 < side <= _SIDE for side in sides) or len(sides) != 3:
        raise ValueError(f"no images are of {image['channels']} channels and {image['size']} pixels")
    if not 0 < image["crop_pct"] <= 1 or image["crop_mode"] not in _CROPS or image["interpolation"] not in _RESIZES:
        raise ValueError(f"pictures cannot be resized by {image}")


def metadata_of(model: BrickCollection, images: InputSpec) -> ExportMetadata:
    """The facts of a model, with its bricks as they are now."""
    bricks = model.bricks()
    heads = head_metadata(bricks)
    stored = {path: hash_in_memory(path, brick) for path, brick in bricks.items()}
    hashes = {path: facts["sha256"] for path, facts in stored.items() if facts is not None}
    beside = {}
    for path, brick in bricks.items():
        if brick.tags & BESIDE and path not in hashes:
            with suppress(UnsafeBrickError):  # the user's own, which no file can hold
                beside[path] = describe(brick)
    return ExportMetadata(name_of(model.bricks()), images, heads, beside, hashes)
