"""Export a collection to an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brickyard.collection import BrickCollection
from brickyard.core.brick import Tags
from brickyard.export.metadata import metadata_of
from brickyard.export.onnx_program import check_onnx, to_onnx
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.parity import check_parity
from brickyard.export.prepare import chosen_outputs, prepare_export, refuse_existing
from brickyard.export.split import export_split
from brickyard.export.trace import trace
from brickyard.storage.atomic import write_atomically


def export_onnx(
    model: BrickCollection,
    path: str | os.PathLike[str],
    *,
    outputs: Iterable[str] | None = None,
    heads: Iterable[str] | None = None,
    split: bool = False,
    dynamic: Sequence[str] = ("batch",),
    image_size: int | tuple[int, int] | None = None,
    opset: int | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> None:
    """Export a model to a self-contained ONNX file with the input `image`, (B, C, H, W) float32 in [0, 1].

    The file includes the weights (up to 2 GB) and, as `metadata_props`, the heads with their class names, the
    specification of the input images and the sha256 of every brick. It is written atomically, after all checks.

    In parts, `path` is a folder with `backbone.onnx` and a file for each head, `seg.onnx`, which reads the outputs of
    the backbone: any of the heads run with one pass of the backbone. The metadata of a head names the sha256 of the
    backbone's weights, and it runs with no other; see `export/deployment.py` for names and shapes. A `backbone.onnx`
    that is in the folder is kept if the heads fit it, so that a head is added, or replaced with `overwrite=True`,
    alone: `heads=["seg"]`. All files change or none.

    Args:
        model: A model with a backbone. Its mode, statistics and device are not changed.
        path: The file to write, or the folder.
        outputs: The names of the outputs; by default the main output of each head's task and every other output of a
            head that no brick reads. Bricks that they do not need are left out.
        heads: The names of the heads to export, None for all.
        split: Write a folder of parts instead of a file.
        dynamic: The dynamic axes, some of "batch", "height" and "width". Some backbones have a fixed height and width.
        image_size: Pixels, one number or (H, W); by default the backbone's image size, or that of the `backbone.onnx`
            which is kept. Only images of this size are accepted, except along dynamic axes.
        opset: The ONNX opset; by default torch's.
        check: Validate the file with `onnx.checker`, and compare its outputs in onnxruntime with the model's at two
            other batch sizes, at `image_size` and, where height or width are dynamic, at a larger size.
        overwrite: Replace an existing file; of a folder the files of the heads and, with `heads=None`, the backbone.

    Raises:
        FileExistsError: The file exists and `overwrite` is False.
        MissingExtraError: The extra `export` is not installed.
        UnknownNameError: The model has no such head.
        BrickInputError: The backbone does not take this size, torch cannot write this opset, an output is not a tensor,
            or the model reads more than images; in parts, an output is of no head, or the folder has a stored model.
        BrickGraphError: There is no such output, or the model cannot be exported; in parts, a head reads another head.
        BrickMismatchError: The outputs of the file differ from the model's, or the backbone in the folder is of other
            weights, or its outputs have other shapes; nothing was written.

    Example::

        model = create_model("resnet18_cls_seg", pretrained=True)
        export_onnx(model, "model.onnx", dynamic=("batch", "height", "width"))
        export_onnx(model, "deployed", split=True)  # Predictor("deployed", heads=["seg"]) runs the half of it
    """
    names = chosen_outputs(model, outputs, heads)
    options = {} if opset is None else {"opset_version": opset}
    if split:
        kept = {"overwrite": overwrite, "keep_backbone": not overwrite or heads is not None}
        export_split(model, Path(path), names, dynamic, image_size, options, check=check, **kept)
        return
    refuse_existing(path, overwrite)
    images, traced = prepare_export(model, names, dynamic, image_size)
    program = to_onnx(traced, **options)
    for key, text in metadata_of(model, images).to_text().items():
        program.model.metadata_props[key] = text
    with write_atomically(Path(path)) as temp:
        program.save(temp, external_data=False)
        if check:
            check_onnx(temp)
            check_parity(traced, OnnxSession(temp), images, dynamic, str(path))


def export_bricks_as_onnx(
    path_onnx: str | os.PathLike[str],
    brick_collection: BrickCollection,
    named_inputs: Mapping[str, Any],
    dynamic_batch_size: bool,
    tags: Tags | None = None,
    **onnx_export_kwargs: Any,
) -> None:
    """Export the bricks that run with `tags`, in evaluation mode and with their weights, to one ONNX file.

    Args:
        path_onnx: The file to write, atomically; an existing file is replaced.
        brick_collection: The collection. Its mode and statistics are not changed.
        named_inputs: An example batch; values that the bricks do not read are ignored. The inputs and outputs of the
            graph have the collection's names; a tuple or list of tensors becomes indexed ones, `features.0`.
        dynamic_batch_size: Accept batches of any size, along dimension 0 of every input.
        tags: The tags to run with, by default those of `Stage.EXPORT`.
        **onnx_export_kwargs: Further arguments of `torch.onnx.export`.

    Raises:
        MissingExtraError: The extra `export` is not installed.
        MissingInputError: The example batch lacks an input.
        BrickInputError: An input or output is neither a tensor nor a tuple or list of tensors.
        BrickGraphError: The bricks cannot be exported.
    """
    dynamic = {name: {0: "batch"} for name in named_inputs} if dynamic_batch_size else {}
    program = to_onnx(trace(brick_collection, named_inputs, dynamic, tags=tags), **onnx_export_kwargs)
    with write_atomically(Path(path_onnx)) as temp:
        program.save(temp, external_data=False)
