"""Export a model to a `.pt2` file: an exported program of torch, or a compiled package that needs no Python (AOTI)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from brickyard.collection import BrickCollection
from brickyard.core.private_names import aoti_compile_and_package, aoti_load_package
from brickyard.core.specs import InputSpec
from brickyard.errors import BrickGraphError, BrickInputError
from brickyard.export.metadata import metadata_of
from brickyard.export.parity import Arrays, check_parity
from brickyard.export.prepare import chosen_outputs, prepare_export, refuse_existing
from brickyard.export.trace import Trace, ignored_warnings
from brickyard.storage.atomic import write_atomically

METADATA_FILE = "brickyard.json"  # the extra file with the result of `ExportMetadata.to_text`


def export_pt2(
    model: BrickCollection,
    path: str | os.PathLike[str],
    *,
    outputs: Iterable[str] | None = None,
    dynamic: Sequence[str] = ("batch",),
    image_size: int | tuple[int, int] | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> None:
    """Export a model to an exported program of torch, for `torch.export.load(path).module()`.

    The program takes one dictionary, `{"image": (B, C, H, W) float32 in [0, 1]}`, and returns a tuple in the order of
    `outputs`. The arguments and errors are those of `export_onnx`.
    """
    refuse_existing(path, overwrite)
    images, traced = prepare_export(model, chosen_outputs(model, outputs), dynamic, image_size)
    program = _to_program(traced)
    metadata = json.dumps(_metadata(model, images, traced))
    with write_atomically(Path(path)) as temp:
        torch.export.save(program, temp, extra_files={METADATA_FILE: metadata})
        if check:
            check_parity(traced, _on_arrays(torch.export.load(temp).module(), traced), images, dynamic, str(path))


def export_aoti(
    model: BrickCollection,
    path: str | os.PathLike[str],
    *,
    outputs: Iterable[str] | None = None,
    dynamic: Sequence[str] = ("batch",),
    image_size: int | tuple[int, int] | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> None:
    """Compile a model to an AOTInductor package, for `torch._inductor.aoti_load_package(path)` and for C++.

    The package runs on machines with the processor and torch version that it was compiled with. The arguments and
    errors are those of `export_onnx`; in addition:

    Raises:
        BrickInputError: No C++ compiler is installed.
    """
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")):
        raise BrickInputError("export_aoti", "a C++ compiler", "none", "Install g++, or use export_pt2.")
    refuse_existing(path, overwrite)
    images, traced = prepare_export(model, chosen_outputs(model, outputs), dynamic, image_size)
    program = _to_program(traced)
    metadata = _metadata(model, images, traced)
    with write_atomically(Path(path)) as temp, ignored_warnings("torch"):
        package = temp.with_suffix(".pt2")  # AOTInductor takes no other suffix
        aoti_compile_and_package(program, str(package), metadata)
        if check:
            run = _on_arrays(aoti_load_package(package), traced)
            check_parity(traced, run, images, dynamic, str(path))
        if package != temp:
            package.rename(temp)


def _metadata(model: BrickCollection, images: InputSpec, traced: Trace) -> dict[str, str]:
    return {**metadata_of(model, images).to_text(), "brickyard.outputs": json.dumps(traced.module.names)}


def _to_program(traced: Trace) -> torch.export.ExportedProgram:
    shapes = None if traced.dynamic is None else {"named_inputs": traced.dynamic}
    try:
        with ignored_warnings("torch", "torchvision"), torch.no_grad():
            return torch.export.export(traced.module, (traced.example,), dynamic_shapes=shapes)
    except Exception as error:  # torch raises exceptions of any type
        raise BrickGraphError(f"These bricks cannot be exported: {error}") from error


def _on_arrays(program: Callable[..., Any], traced: Trace) -> Callable[[Arrays], Arrays]:
    """Wrap an exported program to take and return arrays by name."""

    def run(named_inputs: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = program({name: torch.from_numpy(array) for name, array in named_inputs.items()})
        return {name: value.numpy() for name, value in zip(traced.module.names, outputs, strict=True)}

    return run
