"""Prepare a model that reads images for an exporter: check the arguments, choose the image size, trace it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from brickyard.collection import BrickCollection
from brickyard.core.names import is_inside, prefix_of
from brickyard.core.specs import InputSpec
from brickyard.core.tags import Stage
from brickyard.errors import BrickError, BrickInputError, UnknownNameError
from brickyard.export.trace import AXES, Trace, trace
from brickyard.recipe.inspection import heads_of, images_of
from brickyard.tasks.registry import get_task

_MIN_DYNAMIC_SIDE = 256  # pixels: for a smaller image the coarsest map is a single cell, and torch makes that constant


def prepare_export(
    model: BrickCollection, outputs: Sequence[str], dynamic: Sequence[str], image_size: int | tuple[int, int] | None
) -> tuple[InputSpec, Trace]:
    """Check the arguments of `export_onnx` and trace the model; raises as `export_onnx` does.

    Returns:
        The input images of the exported file, and the traced model.
    """
    images = _input_spec(model, dynamic, image_size)
    return images, _trace_on_images(model, images, outputs, dynamic)


def chosen_outputs(
    model: BrickCollection, outputs: Iterable[str] | None = None, heads: Iterable[str] | None = None
) -> list[str]:
    """List the outputs to export; the arguments are those of `export_onnx`.

    Raises:
        UnknownNameError: The model has no such head.
        BrickInputError: An output is of none of the heads.
    """
    if heads is None:
        return _default_outputs(model) if outputs is None else list(outputs)
    chosen, known = list(heads), heads_of(model.bricks())
    for head in chosen:
        if head not in known:
            raise UnknownNameError("head", head, known)
    inside = {name: any(is_inside(name, head) for head in chosen) for name in outputs or _default_outputs(model)}
    if outputs is not None and not all(inside.values()):
        others = [name for name in inside if not inside[name]]
        raise BrickInputError("outputs", f"outputs of the heads {chosen}", f"also {others}")
    return [name for name in inside if inside[name]]


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise `FileExistsError` if `path` exists and `overwrite` is False."""
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists already. Pass overwrite=True (or --overwrite) to replace it.")


def _input_spec(model: BrickCollection, dynamic: Sequence[str], image_size: int | tuple[int, int] | None) -> InputSpec:
    images = images_of(model.bricks())
    if images is None:
        hint = "Use export_bricks_as_onnx with an example batch."
        raise BrickInputError("the model", "a backbone with a specification of its input images", "none", hint)
    if unknown := [axis for axis in dynamic if axis not in AXES]:
        raise BrickInputError("dynamic", f"some of {list(AXES)}", f"{unknown}")
    is_dynamic = bool({"height", "width"} & set(dynamic))
    if images.fixed and is_dynamic:
        hint = "Export it for one size, or create the model with dynamic_img_size=True if timm supports that."
        raise BrickInputError("dynamic", "a backbone without a fixed image size", f"the size {images.size}", hint)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or images.size
    if min(size) < 1:
        raise BrickInputError("image_size", "1 or more", f"{image_size}")
    return replace(images, size=size, fixed=not is_dynamic)


def _trace_on_images(
    model: BrickCollection, images: InputSpec, outputs: Sequence[str], dynamic: Sequence[str]
) -> Trace:
    others = [name for name in model.required_inputs(Stage.EXPORT.tags, outputs) if name != "image"]
    if others:
        raise BrickInputError("the model", "'image' as only input", f"also {others}", "Use export_bricks_as_onnx.")
    height, width = (
        max(side, _MIN_DYNAMIC_SIDE) if axis in dynamic else side
        for axis, side in zip(("height", "width"), images.size, strict=True)
    )
    example = torch.rand(2, images.channels, height, width)
    try:
        return trace(model, {"image": example}, {"image": {AXES[axis]: axis for axis in dynamic}}, outputs=outputs)
    except BrickError:
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise BrickInputError("image_size", "a size that the backbone takes", f"{height}x{width} ({error})") from error


def _default_outputs(model: BrickCollection) -> list[str]:
    """List the main output of each head's task, and every output of a head that no other brick reads."""
    steps = model.plan(Stage.EXPORT.tags).steps
    bricks = model.bricks()
    read = {name.name for step in steps for name in bricks[step.path].reads}
    heads = {name: head.task for name, head in heads_of(bricks).items()}
    main = {f"{head}/{get_task(task).main_output}" for head, task in heads.items()}
    return [
        name
        for step in steps
        for name in bricks[step.path].writes
        if name in main or (prefix_of(step.path) in heads and name not in read)
    ]
