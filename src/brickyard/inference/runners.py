"""Runners of a trained model on NumPy arrays: torch, or onnxruntime for an exported file."""

from __future__ import annotations

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from brickyard.collection import BrickCollection
from brickyard.core.brick import Brick
from brickyard.core.conversions import torch_to_numpy, uint8_to_float32
from brickyard.core.modules import BrickModule
from brickyard.core.names import join, prefix_of
from brickyard.core.specs import HeadInfo, InputSpec
from brickyard.core.tags import Stage
from brickyard.errors import BrickInputError
from brickyard.export.deployment import open_onnx
from brickyard.export.metadata import PYTHON_TAGS
from brickyard.recipe.inspection import head_metadata, images_of
from brickyard.storage.config import make_brick
from brickyard.storage.integrity import sha256_of
from brickyard.storage.manifest import dump
from brickyard.storage.sources.uri import is_exported
from brickyard.storage.write import describe_all, hash_in_memory

_FILE = "file"  # brick and value with all outputs of an exported file
Arrays = Mapping[str, npt.NDArray[Any]]


class Runner(ABC):
    """A model as a function from arrays to arrays.

    Attributes:
        heads: Metadata of each head: task, variant, labels, ...
        device: Device of the model.
        images: The image input of the model.
        reads: Names of the arrays that the model reads, and whether each is required.
        auxiliary: The visualization and metric bricks, which read the outputs and have no weights.
    """

    heads: Mapping[str, Mapping[str, Any]]
    device: str
    images: InputSpec
    reads: Mapping[str, bool]
    auxiliary: BrickCollection

    @abstractmethod
    def __call__(self, named_inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run the model on a batch.

        Args:
            named_inputs: `image`, (B, C, H, W) uint8, or float in [0, 1].

        Returns:
            The outputs of the heads by name, e.g. `cls/probabilities` (B, K).
        """

    @abstractmethod
    def hashes(self) -> dict[str, str]:
        """Return the sha256 of each brick (weights and configuration) by path: equal for equal models."""


@final
class TorchRunner(Runner):
    """Run a collection of bricks in evaluation mode.

    Args:
        model: The model, which is copied.
        device: Device of the copy.
        outputs: Names of the values to compute; None is all outputs of the heads.
        channels_last: Whether to use the channels-last memory format, which is faster for most convolutional models.
        compile: Whether to compile the model with torch at its first call; each new batch or image size compiles again.

    Raises:
        BrickInputError: The device is not available, or no backbone of the model describes its image input.
    """

    def __init__(
        self,
        model: BrickCollection,
        device: str,
        outputs: Iterable[str] | None = None,
        *,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        self.device = _check_device(device)
        images = images_of(model.bricks())
        if images is None:
            raise BrickInputError("the model", "a backbone that describes its image input", "none")
        self.images = images
        tags = Stage.INFERENCE.tags
        copied = copy.deepcopy(model.sub_collection(tags, None if outputs is None else list(outputs)))
        copied = copied.to(device).eval()
        self._model = copied.to(memory_format=torch.channels_last) if channels_last else copied
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._outputs = None if outputs is None else list(outputs)
        bricks = self._model.bricks()
        required = self._model.required_inputs(outputs=self._outputs)
        written = {name for brick in bricks.values() for name in brick.writes}
        read = {read.name for brick in bricks.values() for read in brick.reads} - written
        self.reads = {name: name in required for name in sorted(read)}
        self.heads = head_metadata(bricks)
        auxiliary = {path: brick.at_path(path) for path, brick in model.bricks().items() if brick.tags & PYTHON_TAGS}
        self.auxiliary = copy.deepcopy(BrickCollection.of_new(auxiliary))
        if compile:
            self._model.compile(dynamic=False)

    @torch.inference_mode()
    def __call__(self, named_inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        tensors = {name: torch.tensor(np.ascontiguousarray(a), device=self.device) for name, a in named_inputs.items()}
        inputs = {
            name: value.contiguous(memory_format=self._layout) if value.ndim == 4 else value
            for name, value in tensors.items()
        }
        values = self._model(inputs, return_inputs=False, outputs=self._outputs)
        return {
            name: torch_to_numpy(value)
            for name, value in values.items()
            if name.partition("/")[0] in self.heads and isinstance(value, Tensor)
        }

    def hashes(self) -> dict[str, str]:
        configs = describe_all(self._model.bricks(), hash_in_memory)
        return {path: hashlib.sha256(dump(config).encode()).hexdigest() for path, (config, _) in configs.items()}


@final
class OnnxRunner(Runner):
    """Run an exported file or a deployed folder with onnxruntime, on as many cores as torch uses.

    Args:
        path: What `export_onnx` or `quantize_onnx` wrote.
        device: See `OnnxSession`.
        heads: The heads of a folder to run, None for all that it has.

    Raises:
        BrickInputError: onnxruntime does not support the device on this machine; `heads` with a file.
        UnknownNameError: The folder has no such head.
        BrickNotFoundError, BrickIntegrityError, BrickMismatchError: A file does not exist, is damaged, was not
            written by brickyard, or is a head of another backbone.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str], device: str | None = None, heads: Iterable[str] | None = None
    ) -> None:
        self._session = open_onnx(path, heads, threads=torch.get_num_threads(), device=device)
        self.device = self._session.device
        metadata = self._session.metadata
        output_heads = {prefix_of(name) for name in self._session.outputs}
        self.heads = {head: values for head, values in metadata.heads.items() if head in output_heads}
        self.images = metadata.image
        self.reads = {"image": True}
        location = os.fspath(path)
        auxiliary = {
            name: make_brick(config, f"{location}, brick '{name}'") for name, config in metadata.python_bricks.items()
        }
        self.auxiliary = BrickCollection.of_new(auxiliary)

    def __call__(self, named_inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        return self._session({name: uint8_to_float32(array) for name, array in named_inputs.items()})

    def hashes(self) -> dict[str, str]:
        return {name: sha256_of(file) for name, file in self._session.files.items()}

    def to_collection(self) -> BrickCollection:
        """Create a collection with the outputs of the file, and the visualization and metric bricks of its model.

        One brick runs the file; for each head, a brick that describes the head writes its outputs.
        """
        bricks: dict[str, Brick] = {_FILE: BrickModule(self._on_tensors, ["image"], [_FILE])}
        for head in dict.fromkeys(map(prefix_of, self._session.outputs)):
            names = [name for name in self._session.outputs if prefix_of(name) == head]
            brick = BrickModule(partial(_select, names), [_FILE], names)
            if head in self.heads:
                brick.head = HeadInfo.from_json(self.heads[head])
            bricks[join(head, "results")] = brick
        return BrickCollection({**bricks, **self.auxiliary.bricks()})

    def _on_tensors(self, image: Tensor) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in self({"image": torch_to_numpy(image)}).items()}


def open_runner(
    source: str | BrickCollection,
    create: Callable[[str], BrickCollection],
    device: str | None,
    outputs: Iterable[str] | None,
    *,
    channels_last: bool,
    compile: bool,
    heads: Iterable[str] | None = None,
) -> Runner:
    """Create the runner of an exported file or folder, a model, or a source from which `create` loads a model."""
    if isinstance(source, str) and is_exported(source):
        if outputs is not None or channels_last or compile:
            hint = "Select the outputs when exporting the model."
            expected = "an exported file without outputs=, channels_last= and compile="
            raise BrickInputError(source, expected, "one of these options", hint)
        return OnnxRunner(source, device, heads)
    if heads is not None:
        expected = "a deployed folder, of which to run some heads"
        raise BrickInputError("heads", expected, "a model", "Select outputs= instead.")
    model = source if isinstance(source, BrickCollection) else create(source)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return TorchRunner(model, chosen, outputs, channels_last=channels_last, compile=compile)


def _select(names: Iterable[str], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(values[name] for name in names)


def _check_device(device: str) -> str:
    """Return the name of a device if it is available."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BrickInputError("device", "a device of this machine, e.g. 'cpu'", f"'{device}' ({error})") from None
    return device
