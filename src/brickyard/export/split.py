"""Export a model to a deployed folder: one ONNX file for the backbone, and one for each head.

The whole model is exported once, and its graph is cut at the values that heads read of the backbone. So everything that
exports as one file exports in parts, with the same nodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brickyard.collection import BrickCollection
from brickyard.core.names import ALL, is_inside
from brickyard.core.tags import Stage
from brickyard.errors import BrickGraphError, BrickInputError, BrickMismatchError
from brickyard.export.deployment import (
    ONNX,
    DeployedSession,
    checked_part,
    deployed_files,
    tensor_problems,
    weight_problems,
)
from brickyard.export.metadata import ExportMetadata, Part, metadata_of
from brickyard.export.onnx_cut import cut
from brickyard.export.onnx_program import check_onnx, to_onnx
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.parity import check_parity
from brickyard.export.prepare import prepare_export, refuse_existing
from brickyard.export.trace import Traceable
from brickyard.recipe.inspection import BACKBONE, heads_of
from brickyard.storage.atomic import current, replaced_together
from brickyard.storage.locks import temp_folder
from brickyard.storage.manifest import MANIFEST


def export_split(
    model: BrickCollection,
    folder: Path,
    outputs: Sequence[str],
    dynamic: Sequence[str],
    image_size: int | tuple[int, int] | None,
    options: Mapping[str, Any],
    *,
    check: bool,
    overwrite: bool,
    keep_backbone: bool,
) -> None:
    """Write `backbone.onnx` and a file for each head that has outputs; see `export_onnx` with `split=True`.

    Args:
        model: See `export_onnx`.
        folder: The folder to write to.
        outputs: The outputs of the heads.
        dynamic: See `export_onnx`.
        image_size: See `export_onnx`; None is the size of the backbone in the folder, if that is kept.
        options: Further arguments of `torch.onnx.export`.
        check: See `export_onnx`.
        overwrite: Replace files of these heads.
        keep_backbone: Keep a `backbone.onnx` that is in the folder.
    """
    by_head = _by_head(model, outputs)
    values = _values_of_backbone(model)
    _refuse(folder, by_head, overwrite)
    deployed = _deployed_backbone(folder) if keep_backbone else None
    if deployed is not None and image_size is None:
        image_size = deployed.metadata.image.size
    images, traced = prepare_export(model, [*outputs, *values], dynamic, image_size)
    metadata = _metadata_of_parts(model, metadata_of(model, images), by_head)
    if deployed is not None:  # before the export, which takes a while
        _check_fits(deployed.metadata, {head: metadata[head] for head in by_head}, folder)
    graph = to_onnx(traced, **options).model_proto
    inside = {part: [name for name in traced.module.names if is_inside(name, part)] for part in by_head}
    of_heads = [name for names in inside.values() for name in names]
    shared = [name for name in traced.module.names if name not in of_heads]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temp_folder(f".{folder.name}-", folder.parent) as temp:
        files = {part: temp / f"{part}{ONNX}" for part in metadata}
        for part, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            stops, results = (["image"], shared) if part == BACKBONE else (["image", *shared], inside[part])
            cut(graph, stops, results, metadata[part].to_text(), file)
        if check:
            for file in files.values():
                check_onnx(file)
            module = Traceable(traced.module.collection, of_heads).eval()
            run = DeployedSession(files, os.fspath(folder))
            check_parity(replace(traced, module=module), run, images, dynamic, os.fspath(folder))
        store_parts(files, folder, overwrite=overwrite, keep_backbone=keep_backbone)


def store_parts(files: Mapping[str, Path], folder: Path, *, overwrite: bool, keep_backbone: bool) -> None:
    """Move new parts into a folder, all or none; another process may have written to it in between.

    Args:
        files: The files by part, on the file system of the folder.
        folder: The folder, which is created if needed.
        overwrite: See `export_split`.
        keep_backbone: See `export_split`.

    Raises:
        BrickMismatchError: A new head does not fit the backbone that is kept, or a head in the folder the new one.
    """
    with replaced_together(folder) as staging:
        _refuse(folder, [part for part in files if part != BACKBONE], overwrite)
        deployed = _deployed_backbone(folder) if keep_backbone else None
        backbone = deployed or OnnxSession(files[BACKBONE])
        heads = {part: OnnxSession(file) for part, file in files.items() if part != BACKBONE}
        others = {part: OnnxSession(file) for part, file in deployed_files(folder).items() if part not in files}
        _check_sessions(backbone, {**heads, **({} if deployed else others)}, folder)
        for part, file in files.items():
            if part != BACKBONE or deployed is None:
                target = staging.folder / f"{part}{ONNX}"
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)


def _by_head(model: BrickCollection, outputs: Iterable[str]) -> dict[str, list[str]]:
    """Group outputs by their head.

    Raises:
        BrickInputError: An output is of no head, or there is none.
        BrickGraphError: A head reads a value of another head.
    """
    heads = heads_of(model.bricks())
    by_head: dict[str, list[str]] = {}
    for name in outputs:
        head = _head_of(name, heads)
        if head is None:
            hint = "Export one file instead of parts."
            raise BrickInputError("outputs", f"outputs of the heads {list(heads)}", f"'{name}'", hint)
        by_head.setdefault(head, []).append(name)
    if not by_head:
        raise BrickInputError("the model", "a head or more to export", "none")
    shared = _shared_bricks(model)
    for head, names in by_head.items():
        for step in model.plan(Stage.EXPORT.tags, names).steps:
            if step.path not in shared and not is_inside(step.path, head):
                raise BrickGraphError(
                    f"The head '{head}' reads values of brick '{step.path}', which is neither its own nor one of the "
                    f"backbone, {sorted(shared)}: the model cannot be exported in parts, only as one file."
                )
    return by_head


def _shared_bricks(model: BrickCollection) -> set[str]:
    """Return the paths of the bricks before the heads: outside of them, and reading no value of theirs."""
    bricks, heads = model.bricks(), heads_of(model.bricks())
    written: set[str] = set()
    shared = set()
    steps = model.plan(Stage.EXPORT.tags).steps
    produced = {name for step in steps for name in bricks[step.path].writes}
    for step in steps:
        brick = bricks[step.path]
        reads = {read.name for read in brick.reads}
        if _head_of(step.path, heads) is None and ALL not in reads and reads & produced <= written:
            shared.add(step.path)
            written.update(brick.writes)
    return shared


def _values_of_backbone(model: BrickCollection) -> list[str]:
    """List the values that the backbone's file outputs: all of the backbone, and of others those that heads read."""
    bricks, shared = model.bricks(), _shared_bricks(model)
    later = [bricks[step.path] for step in model.plan(Stage.EXPORT.tags).steps if step.path not in shared]
    read = {read.name for brick in later for read in brick.reads}
    return [
        name for path in bricks if path in shared for name in bricks[path].writes if path == BACKBONE or name in read
    ]


def _metadata_of_parts(
    model: BrickCollection, whole: ExportMetadata, by_head: Mapping[str, Sequence[str]]
) -> dict[str, ExportMetadata]:
    """Divide the metadata of a model between the files."""
    heads, shared = heads_of(model.bricks()), _shared_bricks(model)
    parts = {
        BACKBONE: replace(
            whole,
            heads={},
            python_bricks={path: config for path, config in whole.python_bricks.items() if not _head_of(path, heads)},
            bricks={path: sha256 for path, sha256 in whole.bricks.items() if path in shared},
            part=Part(BACKBONE),
        )
    }
    for head, outputs in by_head.items():
        needed = {step.path for step in model.plan(Stage.EXPORT.tags, outputs).steps} & shared
        parts[head] = replace(
            whole,
            heads={head: whole.heads[head]},
            python_bricks={path: config for path, config in whole.python_bricks.items() if is_inside(path, head)},
            bricks={path: sha256 for path, sha256 in whole.bricks.items() if is_inside(path, head)},
            part=Part(head, {path: sha256 for path, sha256 in whole.bricks.items() if path in needed}),
        )
    return parts


def _head_of(name: str, heads: Iterable[str]) -> str | None:
    """Return the head that a brick or value is of, None for none."""
    return next((head for head in heads if is_inside(name, head)), None)


def _refuse(folder: Path, heads: Iterable[str], overwrite: bool) -> None:
    """Refuse a folder of something else, and files that exist, if they must not be replaced."""
    if folder.exists() and not folder.is_dir():
        raise BrickInputError(f"{folder}", "a folder for the parts", "a file")
    if current(folder, MANIFEST).is_file():
        raise BrickInputError(f"{folder}", "a new folder, or one of an export in parts", "a stored model")
    for head in heads:
        refuse_existing(current(folder, f"{head}{ONNX}"), overwrite)


def _deployed_backbone(folder: Path) -> OnnxSession | None:
    """Open the backbone in a folder, None if there is none."""
    file = deployed_files(folder).get(BACKBONE)
    if file is None:
        return None
    session = OnnxSession(file)
    checked_part(session, BACKBONE)
    return session


def _check_fits(backbone: ExportMetadata, heads: Mapping[str, ExportMetadata], folder: Path) -> None:
    problems = {head: weight_problems(backbone, metadata) for head, metadata in heads.items()}
    _raise(problems, folder)


def _check_sessions(backbone: OnnxSession, heads: Mapping[str, OnnxSession], folder: Path) -> None:
    metadata = checked_part(backbone, BACKBONE)
    _check_fits(metadata, {head: checked_part(session, head) for head, session in heads.items()}, folder)
    _raise({head: tensor_problems(backbone, session) for head, session in heads.items()}, folder)


def _raise(problems: Mapping[str, Sequence[str]], folder: Path) -> None:
    listed = [f"'{head}': {problem}" for head, each in problems.items() for problem in each]
    if listed:
        hint = f"These heads and {BACKBONE}{ONNX} in it do not fit. Export them to a new folder, or for its image size"
        raise BrickMismatchError(f"{folder} was not changed. {hint}", listed)
