"""Run an exported ONNX file with onnxruntime (the extra `export`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from brickyard.errors import BrickInputError, BrickIntegrityError, BrickNotFoundError, MissingExtraError
from brickyard.export.metadata import ExportMetadata

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


@final
class TensorSpec(NamedTuple):
    """An input or output of a file.

    Attributes:
        type: The type of the tensor, as onnxruntime writes it: "tensor(float)".
        shape: Its dimensions; a dynamic one is a string or None.
    """

    type: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.type} of the shape ({', '.join(map(str, self.shape))})"


@final
class OnnxSession:
    """An ONNX file as a callable from arrays by name to arrays by name. It can be called from several threads.

    Args:
        path: The file.
        threads: The number of threads of an operator, None for onnxruntime's default.
        device: "cpu" or "cuda"; None for the GPU if the installed onnxruntime supports it.
        is_part: Whether other sessions run between the calls: idle threads then wait without using their core.

    Raises:
        BrickInputError: The installed onnxruntime does not support the device.
        MissingExtraError: onnxruntime is not installed.
        BrickNotFoundError: The file does not exist.
        BrickIntegrityError: onnxruntime cannot load the file.

    Attributes:
        location: The path of the file, for messages.
        files: The file by its name.
        inputs: The inputs by name.
        outputs: The names of the outputs.
        output_specs: The outputs by name.
        device: The device that the file runs on.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threads: int | None = None,
        device: str | None = None,
        *,
        is_part: bool = False,
    ) -> None:
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
        if is_part:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        available = [name for name in _PROVIDERS if _PROVIDERS[name] in onnxruntime.get_available_providers()]
        if device is not None and device not in available:
            hint = "To use a GPU, install onnxruntime-gpu instead of onnxruntime." if device == "cuda" else ""
            raise BrickInputError("device", f"for an exported file, one of {available}", f"'{device}'", hint)
        providers = [_PROVIDERS[name] for name in available if name in (device or name, "cpu")]
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no public base class
            raise BrickIntegrityError(f"onnxruntime cannot load {os.fspath(path)}: {error}") from None
        self._runtime = onnxruntime
        self.location = os.fspath(path)
        self.files = {Path(path).name: Path(path).absolute()}
        self.device = "cuda" if _PROVIDERS["cuda"] in self._session.get_providers() else "cpu"
        self.inputs = {value.name: TensorSpec(value.type, tuple(value.shape)) for value in self._session.get_inputs()}
        outputs = self._session.get_outputs()
        self.output_specs = {value.name: TensorSpec(value.type, tuple(value.shape)) for value in outputs}
        self.outputs = list(self.output_specs)

    @property
    def metadata(self) -> ExportMetadata:
        """The metadata that `export_onnx` stored in the file.

        Raises:
            BrickMismatchError: The file was not exported by `export_onnx`.
        """
        return ExportMetadata.from_text(self._session.get_modelmeta().custom_metadata_map, self.location)

    def __call__(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the file on a batch; `image` is (B, C, H, W) float32 in [0, 1].

        Raises:
            BrickInputError: An input is missing, or has a shape that the file does not take.
        """
        self.check(named_inputs)
        inputs = {name: named_inputs[name] for name in self.inputs}
        return dict(zip(self.outputs, self._session.run(None, inputs), strict=True))

    def to_values(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Return arrays as `onnxruntime.OrtValue`s on the device of the file; on the CPU they share their memory."""
        create = self._runtime.OrtValue.ortvalue_from_numpy
        return {name: create(np.ascontiguousarray(array), self.device) for name, array in arrays.items()}

    def run(self, values: Mapping[str, Any], outputs: Sequence[str], device: str) -> dict[str, Any]:
        """Run what some outputs need, on values that are on the device already, and without a check.

        Args:
            values: `onnxruntime.OrtValue`s by name; others than the inputs of the file are ignored.
            outputs: The names of the outputs to compute.
            device: Where to put them, "cpu" or "cuda".

        Returns:
            `onnxruntime.OrtValue`s by name.
        """
        binding, options = self._session.io_binding(), self._runtime.RunOptions()
        options.only_execute_path_to_fetches = len(outputs) < len(self.outputs)
        for name in self.inputs:
            binding.bind_ortvalue_input(name, values[name])
        for name in outputs:
            binding.bind_output(name, device)
        self._session.run_with_iobinding(binding, options)
        return dict(zip(outputs, binding.get_outputs(), strict=True))

    def check(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Check the names and shapes of inputs without running the file; raises as a call does."""
        for name, (_, expected) in self.inputs.items():
            if name not in named_inputs:
                raise BrickInputError(self.location, f"the input '{name}'", f"{list(named_inputs)}")
            shape = named_inputs[name].shape
            if len(expected) != len(shape) or any(
                isinstance(size, int) and size != found for size, found in zip(expected, shape, strict=True)
            ):
                hint = "Resize images to this size (--image-size), or export the model for other sizes."
                text = f"the shape ({', '.join(map(str, expected))})"
                raise BrickInputError(f"{self.location}, '{name}'", text, f"{shape}", hint)
