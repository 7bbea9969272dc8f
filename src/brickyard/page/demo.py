"""What the demo of a model needs: the exported file, and how to read its outputs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brickyard.collection import BrickCollection
from brickyard.errors import BrickGraphError, BrickInputError, BrickMismatchError
from brickyard.export.metadata import ExportMetadata
from brickyard.export.onnx_file import export_onnx
from brickyard.export.onnx_runner import OnnxSession
from brickyard.inference.predictor import Predictor
from brickyard.parts.drawing.canvas import UNCOLORED, class_colors

MODEL = "model.onnx"
_COLOURED = ("seg", "det", "inst", "pose", "fomo", "kpt")  # the tasks whose results have the colours of their classes
_INTERPOLATIONS = ("bilinear", "bicubic")  # that demo.js implements


def export_demo(model: BrickCollection, file: Path) -> str:
    """Export a model for the demo.

    Args:
        model: The model with its weights.
        file: The file to write.

    Returns:
        "", or why the model has no demo; nothing is written then.

    Raises:
        MissingExtraError: The extra `export` is not installed.
    """
    try:
        export_onnx(model, file)
    except (BrickGraphError, BrickInputError, BrickMismatchError) as error:
        return f"it cannot be exported to ONNX: {str(error).splitlines()[0]}"
    if reason := _unsupported(OnnxSession(file).metadata):
        file.unlink()
    return reason


def demo_json(name: str, file: Path, predictor: Predictor, runtime: Mapping[str, str]) -> dict[str, Any]:
    """Describe an exported model for demo.js; URLs are relative to the page.

    Args:
        name: The name of the model.
        file: The exported model, which is next to the page.
        predictor: A predictor of this file, for the limits of the results.
        runtime: See `Runtime.to_json`.
    """
    metadata = OnnxSession(file).metadata
    limits = predictor.settings()["limits"]
    return {
        "name": name,
        "model": MODEL,
        "size": file.stat().st_size,
        "runtime": dict(runtime),
        "image": json.loads(metadata.to_text()["brickyard.image"]),
        "heads": {head: _head(metadata.heads[head], limits[head]) for head in predictor.heads},
    }


def _head(metadata: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    labels, keypoints = list(metadata["labels"]), metadata.get("keypoints")
    head = {"task": metadata["task"], "labels": labels, "threshold": limits["threshold"], "topk": limits["topk"]}
    if metadata["task"] in _COLOURED:
        colors = class_colors(labels)
        head["colors"] = [None if label == UNCOLORED else color for label, color in zip(labels, colors, strict=True)]
    if keypoints is not None:
        names = list(keypoints["names"])
        head["keypoints"] = {"names": names, "colors": class_colors(names), "skeleton": keypoints["skeleton"]}
    return head


def _unsupported(metadata: ExportMetadata) -> str:
    """Return what demo.js does not do with the images of a model, "" if it does all."""
    image = metadata.image
    if image.channels not in (1, 3):
        return f"its images have {image.channels} channels"
    if image.interpolation not in _INTERPOLATIONS:
        return f"its images are resized by '{image.interpolation}'"
    is_square = image.size[0] == image.size[1]
    if image.crop_mode == "border" or (image.crop_mode == "center" and not is_square):
        return f"its images are cropped by '{image.crop_mode}' to {image.size[1]}x{image.size[0]} pixels"
    return ""
