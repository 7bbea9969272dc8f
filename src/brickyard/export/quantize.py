"""Quantise an exported ONNX file to int8 with onnxruntime's static quantisation (the extra `export`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.conversions import uint8_to_float32
from brickyard.errors import BrickInputError, BrickNotFoundError, MissingExtraError
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.prepare import refuse_existing
from brickyard.export.trace import ignored_warnings
from brickyard.storage.atomic import write_atomically

_QUANTISED_OPS = ["Conv", "Gemm", "MatMul"]  # other operators, such as box decoding, lose accuracy for little speed


def quantize_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    images: Iterable[npt.NDArray[Any]],
    *,
    overwrite: bool = False,
) -> None:
    """Quantise the weights and activations of an exported file to int8 (static, QDQ format, per-channel scales).

    Run `brickyard eval` on both files to measure the loss in accuracy.

    Args:
        source: A file that `export_onnx` wrote.
        path: The file to write, with the metadata of `source`.
        images: Calibration batches (B, C, H, W), float in [0, 1] or uint8, from the distribution that the model will
            run on; a few hundred images suffice.
        overwrite: Replace an existing file.

    Raises:
        MissingExtraError: The extra `export` is not installed.
        BrickNotFoundError: `source` does not exist.
        BrickIntegrityError, BrickMismatchError: `source` is not an ONNX file, or was not written by `export_onnx`.
        BrickInputError: There are no images, or the file does not take them.
        FileExistsError: `path` exists and `overwrite` is False.
    """
    try:
        from onnxruntime import quantization  # noqa: PLC0415
        from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("Quantising an ONNX file", "export") from None
    if not Path(source).is_file():
        raise BrickNotFoundError(f"No file {os.fspath(source)}.")
    refuse_existing(path, overwrite)
    session = OnnxSession(source)
    spec = session.metadata.image  # raises for a file of another exporter
    batches = [_checked_batch(batch, spec.channels) for batch in images]
    if not batches:
        raise BrickInputError("quantize_onnx, images", "one calibration batch or more", "none")
    for batch in batches:
        session.check({"image": batch})
    try:
        session({"image": batches[0]})
    except Exception as error:  # onnxruntime's exceptions have no public base class
        expected = f"batches that the file takes, of {spec.size} pixels"
        raise BrickInputError("quantize_onnx, images", expected, f"{batches[0].shape} ({error})") from None

    class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Iterate over the calibration batches."""

        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"image": batch}

    with write_atomically(Path(path)) as temp, ignored_warnings("onnx", "onnxruntime"):
        prepared = temp.with_name(f"prepared-{temp.name}")
        quant_pre_process(os.fspath(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(temp),
            _Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED_OPS,
            per_channel=True,
            reduce_range=True,  # 7-bit weights: 8 bits saturate silently on processors without VNNI
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        _copy_metadata(source, temp)
        OnnxSession(temp)({"image": batches[0]})  # raises before the file is moved to `path`


def _copy_metadata(source: str | os.PathLike[str], target: Path) -> None:
    """Copy the `metadata_props` that onnxruntime's tools dropped."""
    import onnx  # noqa: PLC0415

    model = onnx.load(target)
    keys = {entry.key for entry in model.metadata_props}
    for entry in onnx.load(source, load_external_data=False).metadata_props:
        if entry.key not in keys:
            model.metadata_props.add(key=entry.key, value=entry.value)
    onnx.save(model, target)


def _checked_batch(batch: npt.NDArray[Any], channels: int) -> npt.NDArray[np.float32]:
    array = np.asarray(batch)
    if array.ndim != 4 or array.shape[1] != channels or not len(array):
        raise BrickInputError("quantize_onnx, images", f"batches (B, {channels}, H, W)", f"the shape {array.shape}")
    floats = uint8_to_float32(array)
    if not (floats.min() >= -0.1 and floats.max() <= 1.1):  # the margin allows for bicubic resizing
        values = f"values from {floats.min():.4g} to {floats.max():.4g}"
        raise BrickInputError("quantize_onnx, images", "floats in [0, 1] or uint8", values)
    return floats
