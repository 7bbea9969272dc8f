"""Run a deployed folder: `backbone.onnx`, and one ONNX file for each head that reads its outputs.

Each file is a model of its own that onnxruntime runs without brickyard. The contract between them:

- `backbone.onnx` reads `image`. It outputs what the heads may read, under the names that the values have in the model;
  the items of a tuple have an index: `features.0`, ..., `embedding`.
- `<head>.onnx` reads some of these, by the same names, types and shapes, and `image` where it needs the size of the
  images. Its outputs are those that it has in a file with the whole model: `seg/logits`.
- The metadata of a head names the sha256 of the weights of every brick of `backbone.onnx` that it depends on
  (`Part.requires`); that of `backbone.onnx` has the weights that it was exported from (`ExportMetadata.bricks`). They
  are those of the weights, not of the file: a backbone that is quantised, or exported for another image size, still
  fits its heads if names, types and shapes do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy.typing as npt

from brickyard.errors import BrickInputError, BrickMismatchError, BrickNotFoundError, UnknownNameError
from brickyard.export.metadata import ExportMetadata
from brickyard.export.onnx_runner import OnnxSession, TensorSpec
from brickyard.recipe.inspection import BACKBONE
from brickyard.storage.atomic import current, current_names, identity, read_whole

ONNX = ".onnx"
_SHORT = 12  # digits of a hash in messages


@final
class DeployedSession:
    """A backbone and its heads as a callable from arrays by name to arrays by name, like `OnnxSession`.

    A call runs the backbone once; the heads read its outputs where they are, without a copy.

    Args:
        files: The files by part: `backbone`, and one head or more. Only the heads are run, and of the backbone what
            they need.
        location: The name of the folder, for errors.
        threads: See `OnnxSession`.
        device: See `OnnxSession`.

    Raises:
        BrickMismatchError: A head was exported with another backbone, or a file is not such a part.
        The exceptions of `OnnxSession`.

    Attributes:
        files: The files by their name in the folder.
        metadata: That of the whole, as if it was one file.
        outputs: The names of the outputs of the heads.
        device: The device that the files run on.
    """

    def __init__(
        self, files: Mapping[str, Path], location: str, threads: int | None = None, device: str | None = None
    ) -> None:
        sessions = {part: OnnxSession(file, threads, device, is_part=True) for part, file in files.items()}
        metadata = {part: checked_part(session, part) for part, session in sessions.items()}
        self.files = {f"{part}{ONNX}": file.absolute() for part, file in files.items()}
        self._backbone = sessions.pop(BACKBONE)
        self._heads = sessions
        for head, session in sessions.items():
            problems = weight_problems(metadata[BACKBONE], metadata[head]) or tensor_problems(self._backbone, session)
            if problems:
                hint = "Export the head with this backbone, or leave it out with heads=[...]"
                raise BrickMismatchError(
                    f"{location}: the head '{head}' does not fit {BACKBONE}{ONNX}. {hint}", problems
                )
        self._read = [name for name in self._backbone.outputs if any(name in head.inputs for head in sessions.values())]
        self.metadata = _merged(metadata)
        self.outputs = [name for session in sessions.values() for name in session.outputs]
        self.device = self._backbone.device

    def __call__(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the heads on a batch; see `OnnxSession`."""
        self.check(named_inputs)
        inputs = self._backbone.to_values({"image": named_inputs["image"]})
        values = {**inputs, **self._backbone.run(inputs, self._read, self.device)}
        outputs: dict[str, npt.NDArray[Any]] = {}
        for head in self._heads.values():
            outputs |= {name: value.numpy() for name, value in head.run(values, head.outputs, "cpu").items()}
        return outputs

    def check(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Check the names and shapes of inputs without running the files; raises as a call does."""
        self._backbone.check(named_inputs)


def open_onnx(
    path: str | os.PathLike[str],
    heads: Iterable[str] | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
) -> OnnxSession | DeployedSession:
    """Open an ONNX file with a whole model, or a deployed folder.

    Args:
        path: What `export_onnx` wrote.
        heads: The heads of a folder to run, None for all that it has.
        threads: See `OnnxSession`.
        device: See `OnnxSession`.

    Raises:
        BrickInputError: `heads` with a file, or the file is a part of a folder.
        BrickNotFoundError: There is no such file, or the folder has no backbone or no head.
        UnknownNameError: The folder has no such head.
        The exceptions of `DeployedSession`.
    """
    folder, location = Path(path), os.fspath(path)
    if folder.is_dir():
        return read_whole(
            folder,
            lambda: {part: identity(file) for part, file in deployed_files(folder).items()},
            lambda: DeployedSession(_chosen(folder, heads), location, threads, device),
        )
    if heads is not None:
        raise BrickInputError("heads", "a deployed folder, of which to run some heads", f"{location}")
    session = OnnxSession(path, threads, device)
    if (part := session.metadata.part) is not None:
        expected = "the folder with all its parts, or a file with a whole model"
        raise BrickInputError(location, expected, f"only '{part.name}' of a deployed folder", "Pass the folder.")
    return session


def deployed_files(folder: Path) -> dict[str, Path]:
    """Return the files of a deployed folder by part, as of the last committed change; {} without any."""
    return {name.removesuffix(ONNX): current(folder, name) for name in current_names(folder, ONNX)}


def checked_part(session: OnnxSession, part: str) -> ExportMetadata:
    """Return the metadata of a file after checking that it is the part that its name says.

    Raises:
        BrickMismatchError: It is a file with a whole model, another part, or of another exporter.
    """
    metadata = session.metadata
    found = "a whole model" if metadata.part is None else f"'{metadata.part.name}'"
    if metadata.part is None or metadata.part.name != part:
        problem = f"expected '{part}' of a deployed folder, found {found}: a head is stored under its name"
        raise BrickMismatchError(f"{session.location} is another part than its name says", [problem])
    heads = [] if part == BACKBONE else [part]
    if list(metadata.heads) != heads:
        problem = f"expected metadata for the heads {heads}, found {list(metadata.heads)}"
        raise BrickMismatchError(f"{session.location} is damaged", [problem])
    return metadata


def weight_problems(backbone: ExportMetadata, head: ExportMetadata) -> list[str]:
    """List in what the weights and images that a head was exported with differ from those of a backbone."""
    problems = []
    for path, expected in (head.part.requires if head.part else {}).items():
        found = backbone.bricks.get(path)
        if found != expected:
            present = f"found {found[:_SHORT]}" if found else "there are none"
            problems.append(f"weights of '{path}': expected sha256 {expected[:_SHORT]}, {present}")
    for name in ("channels", "mean", "std"):
        of_head, of_backbone = getattr(head.image, name), getattr(backbone.image, name)
        if of_head != of_backbone:
            problems.append(f"{name} of the images: expected {of_head}, found {of_backbone}")
    return problems


def tensor_problems(backbone: OnnxSession, head: OnnxSession) -> list[str]:
    """List the inputs of a head that a backbone does not output, or with another type or shape."""
    values = {**backbone.inputs, **backbone.output_specs}
    problems = []
    for name, expected in head.inputs.items():
        if name not in values:
            problems.append(f"'{name}': it is none of the outputs {list(backbone.output_specs)}")
        elif not _accepts(expected, values[name]):
            problems.append(f"'{name}': expected {expected}, found {values[name]}")
    return problems


def _accepts(expected: TensorSpec, found: TensorSpec) -> bool:
    """Return whether an input takes every tensor of a specification; a dimension that is no number is dynamic."""
    return (
        expected.type == found.type
        and len(expected.shape) == len(found.shape)
        and all(
            not isinstance(size, int) or size == other for size, other in zip(expected.shape, found.shape, strict=True)
        )
    )


def _chosen(folder: Path, heads: Iterable[str] | None) -> dict[str, Path]:
    """Return the files of the backbone and of some heads, in the order of `heads` or by name."""
    files = deployed_files(folder)
    if BACKBONE not in files:
        hint = "export_onnx(model, folder, split=True) writes it."
        raise BrickNotFoundError(f"No {BACKBONE}{ONNX} in {folder}, which its heads read. {hint}")
    known = [part for part in files if part != BACKBONE]
    if not known:
        raise BrickNotFoundError(f"No head in {folder}, expected a file <head>{ONNX} for each.")
    chosen: Sequence[str] = known if heads is None else list(dict.fromkeys(heads))
    if not chosen:
        raise BrickInputError("heads", f"one or more of {known}", "none")
    for head in chosen:
        if head not in known:
            raise UnknownNameError("head", head, known)
    return {part: files[part] for part in (BACKBONE, *chosen)}


def _merged(parts: Mapping[str, ExportMetadata]) -> ExportMetadata:
    """Return the metadata of parts as that of one file; images are those of the backbone."""
    return replace(
        parts[BACKBONE],
        heads={name: head for each in parts.values() for name, head in each.heads.items()},
        python_bricks={path: config for each in parts.values() for path, config in each.python_bricks.items()},
        bricks={path: sha256 for each in parts.values() for path, sha256 in each.bricks.items()},
        part=None,
    )
