"""An exported file in int8, by onnxruntime's static quantisation (the extra `export`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.errors import BrickInputError, BrickNotFoundError, MissingExtraError
from brickyard.export.onnx_file import refuse_existing, written_apart
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.trace import ignored_warnings

_QUANTISED = ["Conv", "Gemm", "MatMul"]  # the rest, such as the decoding of boxes, loses more than it gains


def quantize_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    images: Iterable[npt.NDArray[Any]],
    *,
    overwrite: bool = False,
) -> None:
    """Write an exported file with int8 weights and activations (static QDQ, a scale for each channel).

    What it costs in metrics tells `brickyard eval`, of the one file and of the other.

    Args:
        source: What `export_onnx` wrote.
        path: The file to write; what `source` says of itself goes along.
        images: Batches to calibrate on, each (B, C, H, W) float in [0, 1] or uint8, such as the model will see: some
            hundred pictures are enough.
        overwrite: Replace a file that is there.

    Raises:
        MissingExtraError: The extra `export` is not installed.
        BrickNotFoundError, BrickIntegrityError, BrickMismatchError: `source` is not there, or another file.
        BrickInputError: No images, or such as the file does not take.
        FileExistsError: `path` is there and `overwrite` is False.
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
    facts = session.facts  # before any work: it must be one of ours
    batches = [_floats(batch, facts.image.channels) for batch in images]
    if not batches:
        raise BrickInputError("quantize_onnx, images", "one batch or more to calibrate on", "none")
    for batch in batches:
        session.check({"image": batch})
    try:
        session({"image": batches[0]})
    except Exception as error:  # onnxruntime's own kinds have no public base
        expected = f"batches as the file takes them, of {facts.image.size} pixels"
        raise BrickInputError("quantize_onnx, images", expected, f"{batches[0].shape} ({error})") from None

    class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """onnxruntime asks for one batch after the other."""

        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(self._left, None)
            return None if batch is None else {"image": batch}

    with (
        written_apart(Path(path)) as draft,
        tempfile.TemporaryDirectory() as folder,
        ignored_warnings("onnx", "onnxruntime"),
    ):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(os.fspath(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(draft),
            _Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            reduce_range=True,  # 7 bits of weights: with 8, sums saturate on processors without VNNI, and say nothing
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        _keep_facts(source, draft)
        OnnxSession(draft)({"image": batches[0]})  # it runs, or it does not take its place


def _keep_facts(source: str | os.PathLike[str], draft: Path) -> None:
    """What a file says of itself, also where onnxruntime's tools have dropped it."""
    import onnx  # noqa: PLC0415

    model = onnx.load(draft)
    known = {each.key for each in model.metadata_props}
    for each in onnx.load(source, load_external_data=False).metadata_props:
        if each.key not in known:
            model.metadata_props.add(key=each.key, value=each.value)
    onnx.save(model, draft)


def _floats(batch: npt.NDArray[Any], channels: int) -> npt.NDArray[np.float32]:
    array = np.asarray(batch)
    if array.ndim != 4 or array.shape[1] != channels or not len(array):
        raise BrickInputError("quantize_onnx, images", f"batches (B, {channels}, H, W)", f"the shape {array.shape}")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    floats = array.astype(np.float32)
    if not (floats.min() >= -0.1 and floats.max() <= 1.1):
        found = f"values from {floats.min():.4g} to {floats.max():.4g}"
        raise BrickInputError("quantize_onnx, images", "floats in [0, 1] or uint8", found)
    return floats
