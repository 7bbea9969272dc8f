"""Quantise an exported file, or a deployed folder, to int8 with onnxruntime's static quantisation (extra `export`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.conversions import uint8_to_float32
from brickyard.core.names import is_inside, prefix_of, prefixes
from brickyard.errors import (
    BrickInputError,
    BrickMismatchError,
    BrickNotFoundError,
    MissingExtraError,
    UnknownNameError,
)
from brickyard.export.deployment import ONNX, DeployedSession, deployed_files, open_onnx
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.parity import Arrays
from brickyard.export.prepare import refuse_existing
from brickyard.export.split import store_parts
from brickyard.export.trace import ignored_warnings
from brickyard.recipe.inspection import BACKBONE
from brickyard.storage.atomic import write_atomically
from brickyard.storage.locks import temp_folder

_QUANTISED_OPS = ["Conv", "Gemm", "MatMul"]  # other operators, such as box decoding, lose accuracy for little speed


def quantize_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    images: Iterable[npt.NDArray[Any]],
    *,
    bricks: Iterable[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Quantise the weights and activations of an export to int8 (static, QDQ format, per-channel scales).

    Run `brickyard eval` before and after to measure the loss in accuracy.

    Args:
        source: A file or a folder that `export_onnx` wrote.
        path: The file or folder to write, with the metadata of `source`. A backbone that is quantised still fits the
            heads of its folder.
        images: Calibration batches (B, C, H, W), float in [0, 1] or uint8, from the distribution that the model will
            run on; a few hundred images suffice.
        bricks: The paths of the bricks to quantise, or prefixes of them: "backbone", "seg". The others stay in float,
            such as a head that loses accuracy. None is all.
        overwrite: Replace an existing file, or the files of a folder.

    Raises:
        MissingExtraError: The extra `export` is not installed.
        BrickNotFoundError: `source` does not exist.
        UnknownNameError: `source` has no such brick with convolutions or matrix products.
        BrickIntegrityError, BrickMismatchError: `source` is not an ONNX file, or was not written by `export_onnx`.
        BrickInputError: There are no images, or the file does not take them.
        FileExistsError: `path` exists and `overwrite` is False.
    """
    try:
        import onnxruntime.quantization  # noqa: F401, PLC0415
    except ImportError:
        raise MissingExtraError("Quantising an ONNX file", "export") from None
    if not Path(source).exists():
        raise BrickNotFoundError(f"No file {os.fspath(source)}.")
    refuse_existing(path, overwrite)
    session = open_onnx(source)
    spec = session.metadata.image  # raises for a file of another exporter
    chosen = None if bricks is None else _checked_bricks(list(bricks), source)
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
    if isinstance(session, DeployedSession):
        _quantize_folder(Path(source), Path(path), batches, chosen)
        return
    with write_atomically(Path(path)) as temp:
        _quantize_file(Path(source), temp, ({"image": batch} for batch in batches), chosen)
        OnnxSession(temp)({"image": batches[0]})  # raises before the file is moved to `path`


def quantizable_bricks(source: str | os.PathLike[str]) -> list[str]:
    """List the bricks of an export that have convolutions or matrix products, by path."""
    files = deployed_files(Path(source)).values() if Path(source).is_dir() else [Path(source)]
    nodes = [node for file in files for node in _quantised_nodes(file)]
    return [brick for brick in dict.fromkeys(map(prefix_of, nodes)) if brick]


def _checked_bricks(bricks: Sequence[str], source: str | os.PathLike[str]) -> Sequence[str]:
    known = quantizable_bricks(source)
    if not known:
        problem = "its nodes are not named after bricks: an older version of brickyard wrote it. Export the model again"
        raise BrickMismatchError(f"{os.fspath(source)} cannot be quantised by brick", [problem])
    if not bricks:
        raise BrickInputError("bricks", f"one or more of {known}", "none")
    for name in bricks:
        if not any(is_inside(path, name) for path in known):
            raise UnknownNameError("brick", name, [*known, *(top for path in known for top in prefixes(path))])
    return bricks


def _quantised_nodes(file: Path) -> list[str]:
    """List the names of the nodes that quantisation changes: the path of the brick, and a name in it."""
    import onnx  # noqa: PLC0415

    graph = onnx.load(file, load_external_data=False).graph
    return [node.name for node in graph.node if node.op_type in _QUANTISED_OPS]


def _quantize_folder(
    source: Path, folder: Path, batches: Sequence[npt.NDArray[np.float32]], bricks: Sequence[str] | None
) -> None:
    """Quantise each part of a deployed folder; heads are calibrated on the outputs of the backbone in float."""
    parts = deployed_files(source)
    backbone = OnnxSession(parts[BACKBONE])

    def feeds(part: str) -> Iterator[Arrays]:
        """Yield the inputs of a part for each batch; feature maps of all batches would not fit into memory."""
        names = OnnxSession(parts[part]).inputs
        for batch in batches:
            images = {"image": batch}
            values = images if part == BACKBONE else images | backbone(images)
            yield {name: values[name] for name in names}

    with temp_folder(f".{folder.name}-", folder.parent) as temp:
        files = {part: temp / f"{part}{ONNX}" for part in parts}
        for part, file in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            _quantize_file(parts[part], file, feeds(part), bricks)
        DeployedSession(files, str(folder))({"image": batches[0]})  # raises before the files are moved
        store_parts(files, folder, overwrite=True, keep_backbone=False)


def _quantize_file(source: Path, target: Path, feeds: Iterator[Arrays], bricks: Sequence[str] | None) -> None:
    """Quantise the nodes of some bricks in a file, or of all, and copy its metadata.

    Args:
        source: The file.
        target: The file to write; others are written next to it.
        feeds: The inputs of the file for each calibration batch.
        bricks: The paths of the bricks, or prefixes of them, None for all.
    """
    from onnxruntime import quantization  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Iterate over the calibration batches."""

        def get_next(self) -> Arrays | None:
            return next(feeds, None)

    with ignored_warnings("onnx", "onnxruntime"):
        prepared = target.with_name(f"prepared-{target.name}")
        quant_pre_process(os.fspath(source), str(prepared), skip_symbolic_shape=True)
        nodes = _quantised_nodes(prepared)
        if bricks is not None:
            nodes = [name for name in nodes if any(is_inside(prefix_of(name), brick) for brick in bricks)]
        if not nodes:  # onnxruntime takes an empty list for all nodes
            shutil.copyfile(source, target)
            return
        quantization.quantize_static(
            str(prepared),
            str(target),
            _Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED_OPS,
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=True,  # 7-bit weights: 8 bits saturate silently on processors without VNNI
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        _copy_metadata(source, target)


def _copy_metadata(source: Path, target: Path) -> None:
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
