"""A collection as an ONNX file."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.brick import Tags
from brickyard.collection import BrickCollection
from brickyard.errors import BrickInputError, MissingExtraError
from brickyard.tags import Stage


class _Named(nn.Module):
    """Only what the bricks of a collection make, in a fixed order."""

    def __init__(self, collection: BrickCollection, names: list[str]) -> None:
        super().__init__()
        self.collection = collection
        self.names = names

    def forward(self, named_inputs: dict[str, Tensor]) -> tuple[Any, ...]:
        outputs = _flat(self.collection(named_inputs, return_inputs=False))
        return tuple(outputs[name] for name in self.names)


def _flat(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs with each tuple or list, such as feature maps, under names with an index: `features.0`."""
    flat: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            flat |= {f"{name}.{index}": item for index, item in enumerate(value)}
        else:
            flat[name] = value
    return flat


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
    """
    try:
        import onnxscript  # noqa: F401, PLC0415 - what torch.onnx writes with
    except ImportError:
        raise MissingExtraError("Export to ONNX", "export") from None
    selected = copy.deepcopy(brick_collection.sub_collection(tags=Stage.EXPORT.tags if tags is None else tags)).eval()
    example = {name: named_inputs[name] for name in selected.required_inputs() if name in named_inputs}
    if dynamic_batch_size:
        # Of a size of one, torch.export would make a constant.
        example = {name: torch.cat([value, value]) if len(value) == 1 else value for name, value in example.items()}
    with torch.no_grad():
        outputs = _flat(selected(example, return_inputs=False))
    others = [name for name, value in outputs.items() if not isinstance(value, Tensor)]
    if others:
        raise BrickInputError("ONNX outputs", "tensors", f"{others}", "Leave their bricks out by tags.")
    batch = torch.export.Dim("batch_size")
    shapes = {"named_inputs": {name: {0: batch} for name in example}} if dynamic_batch_size else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own exporter warns of its own parts
        program: Any = torch.onnx.export(
            _Named(selected, list(outputs)),
            args=(),
            kwargs={"named_inputs": example},
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(example),
            output_names=list(outputs),
            verbose=False,
            **onnx_export_kwargs,
        )
    path = Path(path_onnx)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        draft = Path(folder) / path.name
        program.save(draft, external_data=False)
        os.replace(draft, path)
