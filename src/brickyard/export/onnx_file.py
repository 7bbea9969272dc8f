"""A collection as an ONNX file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from brickyard.brick import Tags
from brickyard.build import images_of
from brickyard.collection import BrickCollection
from brickyard.errors import BrickError, BrickGraphError, BrickInputError, MissingExtraError
from brickyard.export.facts import facts_of
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.parity import check_parity
from brickyard.export.trace import AXES, Trace, ignored_warnings, trace
from brickyard.names import place_of
from brickyard.parts.backbones import InputSpec
from brickyard.tags import Stage
from brickyard.tasks.registry import get_task

_LEAST_DYNAMIC = 256  # pixels: of a smaller image, the coarsest map is one cell, which would become a constant


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
    """Write a model as one ONNX file that needs nothing else: images in [0, 1] go in, named results come out.

    The file holds the weights (up to 2 GB) and, as `metadata_props`, what its heads are, their class names, the images
    that it takes and the sha256 of every brick.

    Args:
        model: With a backbone; it stays as it is: mode, statistics and device.
        path: The file; it is only written once the export is complete and right.
        outputs: The values that the file gives, by default those that each head makes for its users. What they do not
            need is left out.
        dynamic: What may vary: "batch", "height" and "width". Not every backbone takes other heights and widths.
        image_size: Pixels, one number or (H, W), of the images that the file is for, by default the backbone's own; the
            only size that it takes, unless it is dynamic.
        opset: Of ONNX; by default torch's.
        check: Let `onnx.checker` look at the file, and compare it, run by onnxruntime, with the model at two other
            batch sizes, and at `image_size` and a larger one where that may vary.
        overwrite: Replace a file that is there.

    Raises:
        FileExistsError: The file is there and `overwrite` is False.
        MissingExtraError: The extra `export` is not installed.
        BrickInputError: No such size for this backbone, no such opset for this model, an output that is no tensor, or a
            model that reads more than images.
        BrickGraphError: No such output, or the model cannot be exported.
        BrickMismatchError: The file does not give what the model gives; it was not written.
    """
    refuse_existing(path, overwrite)
    images = images_to_export(model, dynamic, image_size)
    traced = trace_model(model, images, outputs, dynamic)
    program = _program(traced, **({} if opset is None else {"opset_version": opset}))
    for key, text in facts_of(model, images).to_text().items():
        program.model.metadata_props[key] = text
    with written_apart(Path(path)) as draft:
        program.save(draft, external_data=False)
        if check:
            _check_form(draft)
            check_parity(traced, OnnxSession(draft), images, dynamic, str(path))


def export_bricks_as_onnx(
    path_onnx: str | os.PathLike[str],
    brick_collection: BrickCollection,
    named_inputs: Mapping[str, Tensor],
    dynamic_batch_size: bool,
    tags: Tags | None = None,
    **onnx_export_kwargs: Any,
) -> None:
    """Write the bricks that a call with `tags` runs as one ONNX file, in evaluation mode, weights inside.

    Args:
        path_onnx: The file; it is only replaced once the export is complete.
        brick_collection: It stays as it is, statistics and mode included.
        named_inputs: An example batch; what the bricks do not read is left out. The inputs and outputs of the graph
            have the collection's names; a tuple of tensors becomes outputs with an index, `features.0`.
        dynamic_batch_size: Take batches of any size, along dimension 0 of every input.
        tags: By default those of `Stage.EXPORT`.
        **onnx_export_kwargs: Further arguments of `torch.onnx.export`.

    Raises:
        MissingExtraError: The extra `export` is not installed.
        MissingInputError: The example lacks an input.
        BrickInputError: An output is no tensor.
        BrickGraphError: The bricks cannot be exported.
    """
    sizes = {name: {0: "batch"} for name in named_inputs} if dynamic_batch_size else {}
    program = _program(trace(brick_collection, named_inputs, sizes, tags=tags), **onnx_export_kwargs)
    with written_apart(Path(path_onnx)) as draft:
        program.save(draft, external_data=False)


def images_to_export(
    model: BrickCollection, dynamic: Sequence[str], image_size: int | tuple[int, int] | None
) -> InputSpec:
    """The images that an exported file takes; arguments and errors are those of `export_onnx`."""
    images = images_of(model)
    if images is None:
        expected = "a backbone that says which images it takes"
        raise BrickInputError("the model", expected, "none", "Use export_bricks_as_onnx with an example of your own.")
    if unknown := [axis for axis in dynamic if axis not in AXES]:
        raise BrickInputError("dynamic", f"some of {list(AXES)}", f"{unknown}")
    varies = bool({"height", "width"} & set(dynamic))
    if images.fixed and varies:
        mend = "Export it at one size, or create it with dynamic_img_size=True where timm has it."
        raise BrickInputError("dynamic", "a backbone that takes images of any size", f"one of {images.size}", mend)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or images.size
    return replace(images, size=size, fixed=not varies)


def trace_model(
    model: BrickCollection, images: InputSpec, outputs: Iterable[str] | None, dynamic: Sequence[str]
) -> Trace:
    """A model that reads images, ready for an exporter; arguments and errors are those of `export_onnx`."""
    names = _results(model) if outputs is None else list(outputs)
    others = [name for name in model.required_inputs(Stage.EXPORT.tags, names) if name != "image"]
    if others:
        raise BrickInputError("the model", "to read only 'image'", f"{others}", "Use export_bricks_as_onnx.")
    height, width = (
        max(side, _LEAST_DYNAMIC) if axis in dynamic else side
        for axis, side in zip(("height", "width"), images.size, strict=True)
    )
    example = torch.rand(2, images.channels, height, width)
    try:
        return trace(model, {"image": example}, {"image": {AXES[axis]: axis for axis in dynamic}}, outputs=names)
    except BrickError:
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        expected = "a size that the backbone takes"
        raise BrickInputError("image_size", expected, f"{height}x{width} ({error})") from error


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise `FileExistsError` where a file would be replaced."""
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} is there already. Pass overwrite=True (or --overwrite) to replace it.")


@contextmanager
def written_apart(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place once all went well."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        draft = Path(folder) / path.name
        try:
            yield draft
            os.replace(draft, path)
        except BrickError:
            raise
        except OSError as error:
            raise OSError(f"{path} was not written: {error}") from error


def _program(traced: Trace, **options: Any) -> Any:
    """torch's ONNX program, without the paths of this machine's source files."""
    try:
        import onnxscript  # noqa: F401, PLC0415 - what torch.onnx writes with
    except ImportError:
        raise MissingExtraError("Export to ONNX", "export") from None
    # torch writes its fused attention for 4 dimensions only, and some have 5; this is timm's name for the switch.
    fused: list[Any] = [module for module in traced.module.modules() if hasattr(module, "fused_attn")]
    for module in fused:
        module.fused_attn = False
    try:
        # Of the fused kernels' strides it makes a view that its decompositions cannot take, where a bias is added.
        with ignored_warnings("torch", "torchvision", "onnxscript", "onnx_ir"), sdpa_kernel(SDPBackend.MATH):
            program: Any = torch.onnx.export(
                traced.module,
                args=(),
                kwargs={"named_inputs": traced.example},
                dynamo=True,
                dynamic_shapes=None if traced.sizes is None else {"named_inputs": traced.sizes},
                input_names=list(traced.example),
                output_names=traced.module.names,
                verbose=False,
                **options,
            )
    except Exception as error:  # of every kind: they come from deep inside torch and onnxscript
        raise BrickGraphError(f"These bricks cannot be exported to ONNX: {_reason(error)}") from error
    asked, written = options.get("opset_version"), program.model.opset_imports[""]
    if asked not in (None, written):  # torch only logs it where it cannot convert to the opset
        raise BrickInputError("opset", f"one that torch writes these bricks in, e.g. {written}", f"{asked}")
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    return program


def _check_form(file: Path) -> None:
    import onnx  # noqa: PLC0415 - it is there: onnxscript needs it

    try:
        onnx.checker.check_model(file)
    except onnx.checker.ValidationError as error:
        raise BrickGraphError(f"What torch wrote of these bricks is no valid ONNX: {error}") from error


def _reason(error: BaseException) -> str:
    """The first lines of what went wrong first: torch wraps it in pages of advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10) * 2)[0]}"


def _results(model: BrickCollection) -> list[str]:
    """What each head makes for its users: its task's main output, and every value that no other brick reads."""
    steps = model.plan(Stage.EXPORT.tags).steps
    bricks = model.bricks()
    read = {each.name for step in steps for each in bricks[step.path].reads}
    heads = {place_of(p): str(brick.metadata["task"]) for p, brick in bricks.items() if "task" in brick.metadata}
    main = {f"{head}/{get_task(task).main_output}" for head, task in heads.items()}
    return [
        name
        for step in steps
        for name in bricks[step.path].writes
        if name in main or (place_of(step.path) in heads and name not in read)
    ]
