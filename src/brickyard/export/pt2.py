"""A model as a `.pt2` file: torch's own exported program, or a library that needs no Python (AOTInductor)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from brickyard.collection import BrickCollection
from brickyard.errors import BrickGraphError, BrickInputError
from brickyard.export.facts import facts_of
from brickyard.export.onnx_file import images_to_export, refuse_existing, trace_model, written_apart
from brickyard.export.parity import Arrays, check_parity
from brickyard.export.trace import Trace, ignored_warnings
from brickyard.private_names import aoti_compile_and_package, aoti_load_package

FACTS = "brickyard.json"  # in the file: the keys and texts of `Facts.to_text`


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
    """Write a model as torch's exported program, for `torch.export.load(path).module()`.

    It takes one dictionary, `{"image": (B, C, H, W) float32 in [0, 1]}`, and returns a tuple in the order of `outputs`.
    The arguments and errors are those of `export_onnx`.
    """
    refuse_existing(path, overwrite)
    images = images_to_export(model, dynamic, image_size)
    traced = trace_model(model, images, outputs, dynamic)
    program = _exported(traced)
    facts = {**facts_of(model, images).to_text(), "brickyard.outputs": json.dumps(traced.module.names)}
    with written_apart(Path(path)) as draft:
        torch.export.save(program, draft, extra_files={FACTS: json.dumps(facts)})
        if check:
            check_parity(traced, _named(torch.export.load(draft).module(), traced), images, dynamic, str(path))


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
    """Compile a model into a package of AOTInductor, for `torch._inductor.aoti_load_package(path)` and for C++.

    It runs on machines like this one. The arguments and errors are those of `export_onnx`, and:

    Raises:
        BrickInputError: This machine has no C++ compiler.
    """
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")):
        raise BrickInputError("export_aoti", "a C++ compiler on this machine", "none", "Install g++, or export_pt2.")
    refuse_existing(path, overwrite)
    images = images_to_export(model, dynamic, image_size)
    traced = trace_model(model, images, outputs, dynamic)
    program = _exported(traced)
    facts = {**facts_of(model, images).to_text(), "brickyard.outputs": json.dumps(traced.module.names)}
    with written_apart(Path(path)) as draft, ignored_warnings("torch"):  # the compiler warns of its own parts
        package = draft.with_suffix(".pt2")  # no other ending is taken
        aoti_compile_and_package(program, str(package), facts)
        if check:
            run = _named(aoti_load_package(package), traced)
            check_parity(traced, run, images, dynamic, str(path))
        if package != draft:
            package.rename(draft)


def _exported(traced: Trace) -> torch.export.ExportedProgram:
    shapes = None if traced.sizes is None else {"named_inputs": traced.sizes}
    try:
        with ignored_warnings("torch", "torchvision"), torch.no_grad():  # the exporter warns of its own parts
            return torch.export.export(traced.module, (traced.example,), dynamic_shapes=shapes)
    except Exception as error:  # of every kind: they come from deep inside torch
        raise BrickGraphError(f"These bricks cannot be exported: {error}") from error


def _named(program: Callable[..., Any], traced: Trace) -> Callable[[Arrays], Arrays]:
    """An exported program as a function from arrays to arrays by name."""

    def run(named_inputs: Arrays) -> Arrays:
        with torch.no_grad():
            found = program({name: torch.from_numpy(array) for name, array in named_inputs.items()})
        return {name: value.numpy() for name, value in zip(traced.module.names, found, strict=True)}

    return run
