"""What runs a trained model on arrays: torch, or onnxruntime for an exported file."""

from __future__ import annotations

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
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
from brickyard.core.tags import Stage
from brickyard.errors import BrickInputError
from brickyard.export.metadata import PYTHON_TAGS
from brickyard.export.onnx_runner import OnnxSession
from brickyard.parts.backbones import InputSpec
from brickyard.recipe.build import images_of
from brickyard.storage.config import make_brick
from brickyard.storage.manifest import dump
from brickyard.storage.write import configs_of, hash_in_memory

_RESULTS = "file"  # the value with everything that an exported file gives
Arrays = Mapping[str, npt.NDArray[Any]]


class Runner(ABC):
    """A model as a function from arrays to arrays.

    Attributes:
        heads: What is known of each head: task, variant, labels.
        device: Where it runs.
        images: The images that it takes.
        reads: The names of the arrays that it reads, and whether it cannot do without.
        beside: What draws and measures, on the outputs: bricks without weights.
    """

    heads: Mapping[str, Mapping[str, Any]]
    device: str
    images: InputSpec
    reads: Mapping[str, bool]
    beside: BrickCollection

    @abstractmethod
    def __call__(self, named_inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run it on a batch.

        Args:
            named_inputs: `image`, (B, C, H, W) uint8, or float in [0, 1].

        Returns:
            The heads' outputs by name, e.g. `cls/probabilities` (B, K).
        """

    @abstractmethod
    def hashes(self) -> dict[str, str]:
        """The sha256 of each brick, weights and settings, by its path: what tells another model from this one."""


@final
class TorchRunner(Runner):
    """A collection of bricks in evaluation mode.

    Args:
        model: It is copied.
        device: Where it runs.
        outputs: Only these values, and what they need; None for all of the heads'.
        channels_last: Lay tensors out with channels last: faster for most convolutional models in batches.
        compile: Compile it by torch when it is first called; each new size of batch or image compiles again.

    Raises:
        BrickInputError: No such device, or a model without a backbone that says which images it takes.
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
        self.device = _usable(device)
        images = images_of(model)
        if images is None:
            raise BrickInputError("the model", "a backbone that says which images it takes", "none")
        self.images = images
        tags = Stage.INFERENCE.tags
        chosen = copy.deepcopy(model.sub_collection(tags, None if outputs is None else list(outputs)))
        chosen = chosen.to(device).eval()
        self._model = chosen.to(memory_format=torch.channels_last) if channels_last else chosen
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._outputs = None if outputs is None else list(outputs)
        bricks = self._model.bricks()
        required = self._model.required_inputs(outputs=self._outputs)
        made = {name for brick in bricks.values() for name in brick.writes}
        read = {read.name for brick in bricks.values() for read in brick.reads} - made
        self.reads = {name: name in required for name in sorted(read)}
        self.heads = {prefix_of(path): brick.metadata for path, brick in bricks.items() if "task" in brick.metadata}
        others = {path: brick for path, brick in model.bricks().items() if brick.tags & PYTHON_TAGS}
        self.beside = copy.deepcopy(
            BrickCollection.of_new({path: brick.at_path(path) for path, brick in others.items()})
        )
        if compile:
            self._model.compile(dynamic=False)

    @torch.inference_mode()
    def __call__(self, named_inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        tensors = {name: torch.tensor(np.ascontiguousarray(a), device=self.device) for name, a in named_inputs.items()}
        laid_out = {
            name: value.contiguous(memory_format=self._layout) if value.ndim == 4 else value
            for name, value in tensors.items()
        }
        values = self._model(laid_out, return_inputs=False, outputs=self._outputs)
        own = {name: value for name, value in values.items() if name.partition("/")[0] in self.heads}
        return {name: torch_to_numpy(value) for name, value in own.items() if isinstance(value, torch.Tensor)}

    def hashes(self) -> dict[str, str]:
        configs = configs_of(self._model, hash_in_memory)
        return {path: hashlib.sha256(dump(config).encode()).hexdigest() for path, (config, _) in configs.items()}


@final
class OnnxRunner(Runner):
    """An exported file, by onnxruntime, on as many cores as torch uses.

    Args:
        path: What `export_onnx` wrote.
        device: As for `OnnxSession`.

    Raises:
        BrickInputError: onnxruntime has no such device here.
        BrickNotFoundError, BrickIntegrityError, BrickMismatchError: No such file, or another one.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], device: str | None = None) -> None:
        self._session = OnnxSession(path, threads=torch.get_num_threads(), device=device)
        self.device = self._session.device
        metadata = self._session.metadata
        given = {prefix_of(name) for name in self._session.outputs}
        self.heads = {head: about for head, about in metadata.heads.items() if head in given}
        self.images = metadata.image
        self.reads = {"image": True}
        self._path = Path(path).absolute()
        location = os.fspath(path)
        made = {
            name: make_brick(config, f"{location}, brick '{name}'") for name, config in metadata.python_bricks.items()
        }
        self.beside = BrickCollection.of_new(made)

    def __call__(self, named_inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        return self._session({name: uint8_to_float32(array) for name, array in named_inputs.items()})

    def hashes(self) -> dict[str, str]:
        with open(self._path, "rb") as file:
            return {self._path.name: hashlib.file_digest(file, "sha256").hexdigest()}

    def to_collection(self) -> BrickCollection:
        """A collection that gives what the file gives, and runs what draws and measures as the model did.

        One brick runs the file; each head has one that names its values and knows its task and labels.
        """
        bricks: dict[str, Brick] = {_RESULTS: BrickModule(self._on_tensors, ["image"], [_RESULTS])}
        names = self._session.outputs
        for place in dict.fromkeys(map(prefix_of, names)):
            own = [name for name in names if prefix_of(name) == place]
            brick = BrickModule(partial(_picked, own), [_RESULTS], own)
            brick.metadata = dict(self.heads.get(place, {}))
            bricks[join(place, "results")] = brick
        return BrickCollection({**bricks, **self.beside.bricks()})

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
) -> Runner:
    """What runs a source: an exported file (`.onnx`), a model, or what `create` makes a model of."""
    if isinstance(source, str) and source.endswith(".onnx"):
        if outputs is not None or channels_last or compile:
            hint = "Choose outputs when it is exported."
            raise BrickInputError("an exported file", "no outputs, channels_last or compile", "some", hint)
        return OnnxRunner(source, device)
    model = source if isinstance(source, BrickCollection) else create(source)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return TorchRunner(model, chosen, outputs, channels_last=channels_last, compile=compile)


def _picked(names: Iterable[str], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(values[name] for name in names)


def _usable(device: str) -> str:
    """The name of a device that is there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BrickInputError("device", "one of this machine, e.g. 'cpu'", f"'{device}' ({error})") from None
    return device
