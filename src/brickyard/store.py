"""A model as a folder: one JSON and one safetensors file for each brick, and a manifest.

    bricks.json                              the manifest: the recipe, and each brick's file, hash and size in order
    backbone.json   backbone.safetensors
    cls/head.json   cls/head.safetensors
    cls/loss.json                            a brick without tensors has only its JSON

A brick's JSON stands alone: format, kind, type, args, inputs, outputs, tags, weights, and what else is known of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from brickyard.backbone import BrickBackbone
from brickyard.brick import Brick
from brickyard.build import recipe_of
from brickyard.collection import BrickCollection
from brickyard.errors import (
    BrickError,
    BrickGraphError,
    BrickInputError,
    BrickIntegrityError,
    BrickMismatchError,
    BrickNotFoundError,
    UnsafeBrickError,
)
from brickyard.metrics import BrickMetrics, BrickMetricSingle
from brickyard.modules import BrickLoss, BrickModule, BrickNotTrainable, BrickTrainable
from brickyard.names import check_brick_names
from brickyard.parts.registry import create_part, part_of
from brickyard.recipe import Recipe
from brickyard.visualization import BrickPerImageVisualization
from brickyard.weights import (
    SUFFIX,
    assign_weights,
    refuse_pickle,
    replaced_together,
    uninitialised,
    write_weights,
)

FORMAT = 1
MANIFEST = "bricks.json"

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


@final
@dataclass(frozen=True)
class Manifest:
    """What `bricks.json` says.

    Attributes:
        recipe: What the model is made of, None for bricks around no timm backbone.
        bricks: For each brick, in order: {"at": where its files are, "config": its JSON's sha256, "weights": its
            weights' sha256 or None, "size": their bytes}.
        extra: Fields of the file that this version does not know; they are kept.
    """

    recipe: Recipe | None
    bricks: dict[str, dict[str, Any]]
    extra: dict[str, Any]


def save_pretrained(model: BrickCollection, folder: str | Path, *, weights: str | None = None) -> None:
    """Write a model as a folder that `create_model("local-dir:<folder>")` builds again, in any process.

    Args:
        model: Each brick must wrap a part that `create_part` made.
        folder: Where to; files of the same names are replaced, others stay. A save that fails changes nothing.
        weights: A tag for the weights, as in the last part of a model's name.

    Raises:
        UnsafeBrickError: A brick wraps something that no registered part describes.
    """
    bricks = model.bricks()
    described = {path: describe(brick) for path, brick in bricks.items()}
    entries: dict[str, dict[str, Any]] = {}
    with replaced_together(Path(folder)) as staging:
        hashes = {}
        for path, brick in bricks.items():
            if brick.module is not None and brick.module.state_dict():
                file = staging / f"{path}{SUFFIX}"
                write_weights(brick.module, file)
                hashes[path] = {"sha256": sha256_of(file), "size": file.stat().st_size}
        for path, config in described.items():
            stored = hashes.get(path)
            needs = _requires(described, hashes) if stored and path != "backbone" else {}
            text = _dump({**config, **({"weights": stored} if stored else {}), **needs})
            file = staging / f"{path}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            entries[path] = {
                "at": path,
                "config": hashlib.sha256(text.encode()).hexdigest(),
                "weights": stored["sha256"] if stored else None,
                "size": stored["size"] if stored else 0,
            }
        recipe = recipe_of(model, weights)
        manifest = {"format": FORMAT, "collection": recipe.to_json() if recipe else None, "bricks": entries}
        (staging / MANIFEST).write_text(_dump(manifest), encoding="utf-8")


def load_pretrained(folder: str | Path) -> BrickCollection:
    """Build the model that a folder holds; weights are mapped from the files and read when they are used.

    Raises:
        BrickNotFoundError: No manifest, or a brick's file is absent.
        UnsafeBrickError: Another format number, an unknown kind, a name that leaves the folder.
        UnknownNameError: A part that is not registered here.
        BrickMismatchError: Weights and configuration do not fit.
        BrickIntegrityError: A weights file of another length than it should have.
    """
    folder = Path(folder)
    bricks: dict[str, Brick] = {}
    for path, entry in read_manifest(folder).bricks.items():
        config = read_json(folder / f"{entry['at']}.json")
        with _well_formed(folder / f"{entry['at']}.json"):
            with uninitialised():
                brick = make_brick(config, path)
            size = config["weights"]["size"] if config.get("weights") else None
            if "task" in brick.metadata and not {"variant", "labels"} <= set(brick.metadata):
                raise KeyError("variant and labels of a head")
        if size is not None:
            _load_weights(brick, folder / f"{entry['at']}{SUFFIX}", size, path)
        elif brick.module is not None and brick.module.state_dict():
            raise BrickMismatchError(f"Brick '{path}'", ["it has parameters or buffers, but no weights are stored"])
        bricks[path] = brick
    return BrickCollection.of_new(bricks)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `bricks.json`; the errors are those of `load_pretrained`."""
    file = folder / MANIFEST
    values = read_json(file)
    with _well_formed(file):
        bricks = values["bricks"]
        try:
            check_brick_names([*bricks, *(entry["at"] for entry in bricks.values())])
        except BrickGraphError as error:
            raise UnsafeBrickError(f"{file}: {error}") from None
        recipe = Recipe.from_json(values["collection"]) if values["collection"] else None
    extra = {key: value for key, value in values.items() if key not in ("format", "collection", "bricks")}
    return Manifest(recipe, bricks, extra)


def read_json(file: Path) -> dict[str, Any]:
    """Read a manifest or a brick's JSON of this format; the errors are those of `load_pretrained`."""
    if not file.is_file():
        raise BrickNotFoundError(f"No file {file}. A model's folder has {MANIFEST} and a JSON for each brick.")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrickIntegrityError(f"{file} is no JSON ({error}). Fetch it again.") from None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise UnsafeBrickError(f"{file}: expected an object with a format number, found {str(values)[:60]!r}.")
    if values["format"] < 1:
        raise UnsafeBrickError(f"{file} has format {values['format']}, expected 1 or more.")
    if values["format"] > FORMAT:
        raise UnsafeBrickError(
            f"{file} has format {values['format']}, this version reads up to {FORMAT}. Upgrade brickyard."
        )
    return values


def describe(brick: Brick) -> dict[str, Any]:
    """A brick as JSON values, without its weights.

    Raises:
        UnsafeBrickError: It wraps something that no registered part describes.
    """
    taken = sorted(set(_FIELDS) & set(brick.metadata))
    if taken:
        found = f"{taken}"
        raise BrickInputError(f"brick '{brick.path}'", "metadata under other keys than a brick's file has", found)
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


def make_brick(config: Mapping[str, Any], path: str) -> Brick:
    """The brick that `describe` described, with fresh weights; the errors are those of `load_pretrained`."""
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnsafeBrickError(f"Brick '{path}' is of the kind '{kind}', expected one of {sorted(_KINDS)}.")
    names = {"input_names": config["inputs"], "tags": config["tags"]}
    if config["outputs"]:
        names["output_names"] = config["outputs"]
    brick = _KINDS[kind](create_part(config["type"], **config["args"]), **names, **config["settings"])
    brick.metadata = {key: value for key, value in config.items() if key not in _FIELDS}
    if isinstance(brick, BrickModule) and config.get("trainable", brick.trainable) != brick.trainable:
        brick.unfreeze() if config["trainable"] else brick.freeze()
    return brick


@contextmanager
def _well_formed(file: Path) -> Iterator[None]:
    """Turn what a field that is absent or of another type leads to into an error that names the file."""
    try:
        yield
    except BrickError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise BrickMismatchError(f"{file} is not as this version of brickyard writes it", [problem]) from error


def sha256_of(file: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load_weights(brick: Brick, file: Path, size: int, path: str) -> None:
    if not file.is_file():
        refuse_pickle(file.with_suffix(""))
        raise BrickNotFoundError(f"Brick '{path}' has weights, but there is no file {file}.")
    if file.stat().st_size != size:
        raise BrickIntegrityError(f"{file} has {file.stat().st_size} bytes, expected {size}. Fetch it again.")
    if brick.module is None:
        raise BrickMismatchError(f"Brick '{path}'", ["it has weights, but what it wraps is no module"])
    assign_weights(brick.module, file, path)


def _requires(described: Mapping[str, Mapping[str, Any]], hashes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a head needs of its backbone."""
    if "provides" not in described.get("backbone", {}):
        return {}
    provides = described["backbone"]["provides"]
    needs = {**provides["features"], "input": provides["input"], "sha256": hashes["backbone"]["sha256"]}
    return {"requires": {"backbone": needs}}


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
