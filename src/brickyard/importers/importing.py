"""Import public checkpoints of other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.graph import set_paths
from brickyard.core.modules import BrickModule
from brickyard.errors import BrickInputError, BrickMismatchError, HubConnectionError, UnknownNameError
from brickyard.importers.checkpoint import Checkpoint, open_checkpoint
from brickyard.importers.dinov2 import ENTRIES as DINOV2
from brickyard.importers.entry import ImportEntry, Prefix
from brickyard.importers.smp import SCHEME as SMP
from brickyard.importers.smp import open_smp
from brickyard.importers.torchvision import ENTRIES as TORCHVISION
from brickyard.parts.backbones import TimmNames
from brickyard.recipe.build import build
from brickyard.recipe.inspection import BACKBONE
from brickyard.recipe.names import parse_name
from brickyard.recipe.recipe import Recipe
from brickyard.storage.config import describe, make_brick
from brickyard.storage.read import load_brick
from brickyard.storage.weights import assign_weights, uninitialised, weight_problems
from brickyard.tasks.registry import task_variants

# Every checkpoint that can be imported, by its source.
IMPORTS: Mapping[str, ImportEntry] = {entry.source: entry for entry in (*TORCHVISION, *DINOV2)}

Weights = str | Path | Mapping[str, Tensor]


def import_model(source: str, *, weights: Weights | Mapping[str, Weights] | None = None) -> BrickCollection:
    """Import a public checkpoint of another library as a model.

    Licence, address and hash of the checkpoint are stored with the bricks. `brickyard import --list` lists the sources.

    Args:
        source: The library and its name of the model, such as "torchvision:fcos_resnet50_fpn"; or "smp:" and a folder
            or a repo of the Hub, "smp:user/repo", that `save_pretrained` of segmentation_models.pytorch wrote, which
            needs the extra `importers`.
        weights: A checkpoint file or a state dict of such a model instead of the published weights, which are
            downloaded to torch's cache. Licence and metrics are stored for the published file only. Of a model whose
            heads were published without their backbone, such as DINOv2's, it is the checkpoint of the head, or
            {"seg": file, "depth": file, "backbone": file} for some of them.

    Returns:
        The model in training mode.

    Raises:
        UnknownNameError: No such source; the message has the nearest ones.
        BrickMismatchError: Tensors are missing, unexpected or of another shape; `problems` lists each.
        UnsafeBrickError: The checkpoint is a pickle that would run code.
        BrickIntegrityError: The checkpoint is damaged, or has another hash than the published one of that name.
        BrickInputError: `weights` is one checkpoint, but the model has heads of several.
        HubConnectionError: The download failed; the message states the address.
        MissingExtraError: A library that the source needs is not installed.
        BrickNotFoundError: A folder or repo of smp lacks a file; for a repo also huggingface_hub's own errors.

    Example:
        >>> import brickyard
        >>> model = brickyard.import_model("torchvision:fcn_resnet50")  # doctest: +SKIP
        >>> model.save_pretrained("models/fcn")  # doctest: +SKIP
    """
    if source.startswith(SMP):
        return BrickCollection.of_new(_smp_bricks(source, weights))
    if source not in IMPORTS:
        raise UnknownNameError("source", source, IMPORTS, "`brickyard import --list` lists all.")
    return BrickCollection.of_new(load_import(IMPORTS[source], weights))


def find_import(stem: str, weights: str | None) -> ImportEntry | None:
    """Return the checkpoint of a model name, None if there is none.

    Args:
        stem: The model's name without weights tag, as `Recipe.stem` spells it.
        weights: The weights tag. A name without a tag is no import.
    """
    return next((entry for entry in IMPORTS.values() if entry.name == f"{stem}.{weights}"), None)


def load_import(entry: ImportEntry, weights: Weights | Mapping[str, Weights] | None = None) -> dict[str, Brick]:
    """Build the bricks of a model with its weights, which are downloaded if need be; see `import_model`."""
    given = _weights_by_name(entry, weights)
    with uninitialised():
        bricks = build_import(entry)
    for part in entry.checkpoints:
        _fill(bricks, part, open_checkpoint(part, given.get(part.tasks[0])))
    if entry.backbone is not None:
        if BACKBONE in given:
            _fill(bricks, entry.backbone, open_checkpoint(entry.backbone, given[BACKBONE]))
        else:
            bricks[BACKBONE] = _load_backbone(entry.backbone)
        _freeze(bricks)
    return set_paths(bricks)


def _weights_by_name(entry: ImportEntry, weights: Weights | Mapping[str, Weights] | None) -> Mapping[str, Any]:
    """Return the given checkpoints by the names of the heads, or "backbone"."""
    if weights is None:
        return {}
    names = [*entry.tasks, *([] if entry.backbone is None else [BACKBONE])]
    if entry.backbone is not None and isinstance(weights, Mapping) and set(weights) <= set(names):
        return weights
    if entry.combines:
        expected = f"a dictionary with some of {names}, and a checkpoint for each"
        found = f"the keys {sorted(weights)[:5]}" if isinstance(weights, Mapping) else f"{weights}"
        raise BrickInputError(f"weights of '{entry.source}'", expected, found)
    return {entry.tasks[0]: weights}


def _load_backbone(entry: ImportEntry) -> Brick:
    """Load a backbone of timm from the Hub."""
    try:
        return load_brick(entry.source)
    except (HubConnectionError, LocalEntryNotFoundError) as error:
        raise HubConnectionError(
            f"'{entry.source}' cannot be downloaded ({str(error)[:200]}). Download {entry.url} on another machine, and "
            f"pass the file: weights={{'{BACKBONE}': '{entry.file_name}', ...}}."
        ) from None


def _freeze(bricks: Mapping[str, Brick]) -> None:
    """Freeze a backbone that is shared by heads which were trained on it as it is."""
    backbone = bricks[BACKBONE]
    if isinstance(backbone, BrickModule):
        backbone.freeze()


def build_import(entry: ImportEntry) -> dict[str, Brick]:
    """Build the bricks of a checkpoint's model, with fresh weights."""
    bricks = build(recipe_of_import(entry))
    backbone = bricks[BACKBONE]
    if backbone.provides is not None and entry.backbone is None and entry.image_size is not None:
        images = replace(backbone.provides.input, size=entry.image_size, interpolation="bilinear", crop_pct=1.0)
        backbone.provides = replace(backbone.provides, input=images)
    parts = {path: arguments for each in entry.checkpoints for path, arguments in each.parts.items()}
    for path, arguments in parts.items():
        config = describe(bricks[path])
        head = bricks[path].head
        bricks[path] = make_brick({**config, "args": {**config["args"], **arguments}}, path)
        bricks[path].head = head
    for name in entry.labels:
        info = bricks[f"{name}/head"].head
        if info is not None:
            bricks[f"{name}/head"].head = replace(
                info, image_size=entry.image_size, resize_mode=entry.resize_mode, weights_tag=entry.weights_tag
            )
    return set_paths(bricks)


def describe_import(entry: ImportEntry) -> dict[str, Brick]:
    """Build the bricks of a checkpoint's model on the meta device, with what is stored about the published weights."""
    with torch.device("meta"):
        bricks = build_import(entry)
    for each in entry.checkpoints:
        _note_published(bricks, each)
    if entry.backbone is not None:
        _note_published(bricks, entry.backbone)
        _freeze(bricks)
    return bricks


def recipe_of_import(entry: ImportEntry) -> Recipe:
    """Return the recipe of a checkpoint's model, whose parts have further arguments."""
    recipe = parse_name(entry.name, TimmNames(), task_variants())
    heads = tuple(
        replace(head, num_classes=len(entry.labels[head.name]), labels=entry.labels[head.name]) for head in recipe.heads
    )
    if entry.backbone is not None:
        recipe = replace(recipe, weights=entry.backbone.name.partition(".")[2])
    return replace(recipe, heads=heads, in_chans=entry.in_chans, options=dict(entry.options))


def import_bricks(entry: ImportEntry, checkpoint: Checkpoint) -> dict[str, Brick]:
    """Build the bricks of a checkpoint's model with its weights; errors as for `import_model`."""
    with uninitialised():
        bricks = build_import(entry)
    _fill(bricks, entry, checkpoint)
    return bricks


def _fill(bricks: Mapping[str, Brick], entry: ImportEntry, checkpoint: Checkpoint) -> None:
    """Set the weights of the bricks that a checkpoint has the weights of; errors as for `import_model`."""
    states, problems = _split(entry, entry.convert(checkpoint.state), bricks)
    if problems:
        raise BrickMismatchError(f"{checkpoint.location} is not a checkpoint of '{entry.source}'", problems)
    for path, state in states.items():
        brick = bricks[path]
        if brick.module is not None:
            dtypes = {key: tensor.dtype for key, tensor in brick.module.state_dict().items()}
            owned = {key: torch.empty_like(tensor, dtype=dtypes[key]).copy_(tensor) for key, tensor in state.items()}
            assign_weights(brick.module, owned, path)
        brick.metadata["source"] = f"{entry.source} with weights of the user"
        if checkpoint.sha256 is not None:
            brick.metadata["source_sha256"] = checkpoint.sha256
    if checkpoint.is_published:
        _note_published(bricks, entry)


def _smp_bricks(source: str, weights: str | Path | Mapping[str, Any] | None) -> dict[str, Brick]:
    """Build the bricks of a model of smp with its weights; errors as for `import_model`."""
    found = open_smp(source, weights)
    bricks = import_bricks(found.entry, found.checkpoint)
    for path, metadata in found.metadata.items():
        bricks[path].metadata = dict(metadata)
    return bricks


def _note_published(bricks: Mapping[str, Brick], entry: ImportEntry) -> None:
    """Set the metadata of bricks with the published weights."""
    for path in _paths(entry):
        bricks[path].metadata |= {"source": f"{entry.source}, {entry.url}", "licence": entry.licence}
    for head, metrics in entry.metrics.items():
        bricks[f"{head}/head"].metadata |= {"metrics": dict(metrics), "measured": "as stated by the source"}


def _paths(entry: ImportEntry) -> list[str]:
    """Return the bricks that have tensors of the checkpoint."""
    return sorted({prefix.brick for prefix in entry.prefixes if prefix.brick is not None})


def _split(
    entry: ImportEntry, state: Mapping[str, Tensor], bricks: Mapping[str, Brick]
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Divide a state among the bricks, and list what does not fit, by the names in the checkpoint."""
    states: dict[str, dict[str, Tensor]] = {path: {} for path in _paths(entry)}
    needed: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}
    for path in states:
        module = bricks[path].module
        for key, tensor in ({} if module is None else module.state_dict()).items():
            needed[_name_in_checkpoint(entry, path, key)] = tensor
    for key, tensor in state.items():
        prefix = next((prefix for prefix in entry.prefixes if key.startswith(prefix.source)), Prefix("", None))
        if prefix.brick is not None:
            states[prefix.brick][prefix.target + key.removeprefix(prefix.source)] = tensor
        if prefix.brick is not None or not prefix.source:
            given[key] = tensor
    return states, weight_problems(needed, given)


def _name_in_checkpoint(entry: ImportEntry, path: str, key: str) -> str:
    prefixes = [each for each in entry.prefixes if each.brick == path and key.startswith(each.target)]
    longest = max(prefixes, key=lambda each: len(each.target), default=Prefix(f"{path}/", path))
    return longest.source + key.removeprefix(longest.target)
