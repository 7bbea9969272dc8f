"""Convert traced bricks to ONNX, with the name of its brick in the name of each node."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from brickyard.core.names import join
from brickyard.errors import BrickGraphError, BrickInputError, MissingExtraError
from brickyard.export.trace import Trace, ignored_warnings

_SCOPES = "pkg.torch.onnx.name_scopes"  # torch's metadata of a node: the names of the modules around it, as `repr`


def to_onnx(traced: Trace, **options: Any) -> Any:
    """Convert to a `torch.onnx.ONNXProgram`, whose nodes are named `<path of the brick>/<torch's name>`.

    The source locations that torch adds to the nodes are removed. A node that is of no brick, such as one that computes
    the size of the images, has torch's name only.

    Args:
        traced: The bricks.
        **options: Further arguments of `torch.onnx.export`.

    Raises:
        MissingExtraError: The extra `export` is not installed.
        BrickInputError: torch cannot write this opset.
        BrickGraphError: The bricks cannot be exported.
    """
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
    bricks = traced.module.collection.bricks()
    for node in program.model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        node.name = join(_brick_of(scopes, bricks), node.name)
        node.metadata_props.clear()
    return program


def _brick_of(scopes: Iterable[str], bricks: Collection[str]) -> str:
    """Return the path of the brick whose module wrote a node, "" for none.

    Args:
        scopes: The names of the modules around the node, outermost first: "collection", "collection.seg.head.model".
        bricks: The paths of the bricks.
    """
    for scope in scopes:
        parts = scope.split(".")[1:]  # the first one is the collection
        for end in range(1, len(parts) + 1):
            if (path := "/".join(parts[:end])) in bricks:
                return path
    return ""


def check_onnx(file: Path) -> None:
    """Validate a file with `onnx.checker`.

    Raises:
        BrickGraphError: The file is invalid.
    """
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
