"""Run an exported ONNX file by onnxruntime (the extra `export`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, final

import numpy.typing as npt

from brickyard.errors import BrickInputError, BrickIntegrityError, BrickNotFoundError, MissingExtraError
from brickyard.export.metadata import ExportMetadata

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


@final
class OnnxSession:
    """An ONNX file as a function from arrays to arrays by name. It can be called from several threads.

    Args:
        path: The file.
        threads: How many it computes with, None for what onnxruntime chooses.
        device: "cpu" or "cuda"; None for the GPU where the installed onnxruntime can use one.

    Raises:
        BrickInputError: onnxruntime has no such device here.
        MissingExtraError: onnxruntime is not installed.
        BrickNotFoundError: There is no such file.
        BrickIntegrityError: It is no ONNX file that onnxruntime can run.

    Attributes:
        outputs: The names of what it gives.
        device: Where it runs.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, device: str | None = None) -> None:
        try:
            import onnxruntime  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("Running an ONNX file", "export") from None
        if not os.path.isfile(path):
            raise BrickNotFoundError(f"No file {os.fspath(path)}.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        there = [name for name in _PROVIDERS if _PROVIDERS[name] in onnxruntime.get_available_providers()]
        if device is not None and device not in there:
            hint = "A GPU wants the package onnxruntime-gpu in the place of onnxruntime." * (device == "cuda")
            raise BrickInputError("device", f"for an exported file, one of {there}", f"'{device}'", hint)
        chosen = [_PROVIDERS[name] for name in there if name in (device or name, "cpu")]
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=chosen)
        except Exception as error:  # onnxruntime's own kinds have no public base
            raise BrickIntegrityError(f"{os.fspath(path)} cannot be run by onnxruntime: {error}") from None
        self._where = os.fspath(path)
        self.device = "cuda" if _PROVIDERS["cuda"] in self._session.get_providers() else "cpu"
        self.outputs = [output.name for output in self._session.get_outputs()]
        # A size that may vary is a word, or None.
        self._inputs = {value.name: tuple(value.shape) for value in self._session.get_inputs()}

    @property
    def facts(self) -> ExportMetadata:
        """What the file says of itself.

        Raises:
            BrickMismatchError: It was not exported by `export_onnx`.
        """
        return ExportMetadata.from_text(self._session.get_modelmeta().custom_metadata_map, self._where)

    def __call__(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the file on a batch; `image` is (B, C, H, W) float32 in [0, 1].

        Raises:
            BrickInputError: Arrays of a shape that the file does not take.
        """
        self.check(named_inputs)
        given = {name: named_inputs[name] for name in self._inputs}
        return dict(zip(self.outputs, self._session.run(None, given), strict=True))

    def check(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """See whether arrays have the shapes that the file takes; raises as a call does."""
        for name, taken in self._inputs.items():
            if name not in named_inputs:
                raise BrickInputError(self._where, f"a file that reads {list(named_inputs)}", f"the input '{name}'")
            shape = named_inputs[name].shape
            fits = len(taken) == len(shape)
            if not fits or any(isinstance(t, int) and t != found for t, found in zip(taken, shape, strict=True)):
                expected = f"the shape ({', '.join(map(str, taken))})"
                hint = "Bring images to this size (--image-size), or export the model for other sizes."
                raise BrickInputError(f"{self._where}, '{name}'", expected, f"{shape}", hint)
