"""Export a collection to an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from brickyard.collection import BrickCollection
from brickyard.core.brick import Tags
from brickyard.errors import BrickGraphError, BrickInputError, MissingExtraError
from brickyard.export.metadata import metadata_of
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.parity import check_parity
from brickyard.export.prepare import prepare_export
from brickyard.export.trace import Trace, ignored_warnings, trace
from brickyard.storage.atomic import write_atomically


def export_onnx(
    model: BrickCollection,
    path: str | os.PathLike[str],
    *,
    outputs: Iterable[str] | None = None,
    dynamic: Sequence[str] = ("batch",),
    image_size: int | tuple[int, int] | None = None,
    opset: int | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> None:
    """Export a model to a self-contained ONNX file with the input `image`, (B, C, H, W) float32 in [0, 1].

    The file includes the weights (up to 2 GB) and, as `metadata_props`, the heads with their class names, the
    specification of the input images and the sha256 of every brick. It is written atomically, after all checks.

    Args:
        model: A model with a backbone. Its mode, statistics and device are not changed.
        path: The file to write.
        outputs: The names of the outputs; by default the main output of each head's task and every other output of a
            head that no brick reads. Bricks that they do not need are left out.
        dynamic: The dynamic axes, some of "batch", "height" and "width". Some backbones have a fixed height and width.
        image_size: Pixels, one number or (H, W); by default the backbone's image size. Only images of this size are
            accepted, except along dynamic axes.
        opset: The ONNX opset; by default torch's.
        check: Validate the file with `onnx.checker`, and compare its outputs in onnxruntime with the model's at two
            other batch sizes, at `image_size` and, where height or width are dynamic, at a larger size.
        overwrite: Replace an existing file.

    Raises:
        FileExistsError: The file exists and `overwrite` is False.
        MissingExtraError: The extra `export` is not installed.
        BrickInputError: The backbone does not take this size, torch cannot write this opset, an output is not a tensor,
            or the model reads more than images.
        BrickGraphError: There is no such output, or the model cannot be exported.
        BrickMismatchError: The outputs of the file differ from the model's; the file was not written.

    Example::

        model = create_model("resnet18_cls_seg", pretrained=True)
        export_onnx(model, "model.onnx", dynamic=("batch", "height", "width"))
    """
    images, traced = prepare_export(model, path, outputs, dynamic, image_size, overwrite)
    program = _to_onnx(traced, **({} if opset is None else {"opset_version": opset}))
    for key, text in metadata_of(model, images).to_text().items():
        program.model.metadata_props[key] = text
    with write_atomically(Path(path)) as temp:
        program.save(temp, external_data=False)
        if check:
            _check_onnx(temp)
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
    program = _to_onnx(trace(brick_collection, named_inputs, dynamic, tags=tags), **onnx_export_kwargs)
    with write_atomically(Path(path_onnx)) as temp:
        program.save(temp, external_data=False)


def _to_onnx(traced: Trace, **options: Any) -> Any:
    """Convert to a `torch.onnx.ONNXProgram`, without the source locations that torch adds to the nodes."""
    try:
        import onnxscript  # noqa: F401, PLC0415 - required by torch.onnx
    except ImportError:
        raise MissingExtraError("Export to ONNX", "export") from None
    # torch converts its fused attention for 4 dimensions only, and some backbones have 5: use timm's switch for it.
    fused: list[Any] = [module for module in traced.module.modules() if hasattr(module, "fused_attn")]
    for module in fused:
        module.fused_attn = False
    try:
        # The fused kernels' strides become a view that torch's decompositions reject where a bias is added.
        with ignored_warnings("torch", "torchvision", "onnxscript", "onnx_ir"), sdpa_kernel(SDPBackend.MATH):
            program: Any = torch.onnx.export(
                traced.module,
                args=(),
                kwargs={"named_inputs": traced.example},
                dynamo=True,
                dynamic_shapes=None if traced.dynamic is None else {"named_inputs": traced.dynamic},
                input_names=traced.input_names,
                output_names=traced.module.names,
                verbose=False,
                **options,
            )
    except Exception as error:  # torch and onnxscript raise exceptions of any type
        raise BrickGraphError(f"These bricks cannot be exported to ONNX: {_root_cause(error)}") from error
    requested, written = options.get("opset_version"), program.model.opset_imports[""]
    if requested not in (None, written):  # torch only logs a failed conversion to the opset
        raise BrickInputError(
            "opset", f"an opset that torch can write for these bricks, e.g. {written}", f"{requested}"
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    return program


def _check_onnx(file: Path) -> None:
    import onnx  # noqa: PLC0415 - installed with onnxscript

    try:
        onnx.checker.check_model(file)
    except onnx.checker.ValidationError as error:
        raise BrickGraphError(f"torch exported these bricks to invalid ONNX: {error}") from error


def _root_cause(error: BaseException) -> str:
    """Return the first paragraph of the root cause; torch wraps it in pages of advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10) * 2)[0]}"
