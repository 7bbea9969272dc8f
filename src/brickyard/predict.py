"""From pictures to what is on them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data import create_transform
from tqdm import tqdm

from brickyard.collection import BrickCollection
from brickyard.create import create_model
from brickyard.errors import BrickInputError
from brickyard.names import place_of
from brickyard.parts.backbones import BackboneSpec
from brickyard.parts.conversions import torch_to_numpy
from brickyard.parts.pictures import find_pictures, read_picture
from brickyard.tags import Stage
from brickyard.tasks.registry import get_task

_DRAWN_SIDE = 1600  # pixels: a drawn picture is no larger


@final
@dataclass(frozen=True)
class Prediction:
    """What was found on one picture.

    Attributes:
        file: The picture.
        size: Its (width, height) in pixels, upright; (0, 0) if it could not be read.
        results: For each head what its task's `results` say, best first.
        drawn: The picture with what every head found, None if nothing was drawn.
        error: Why the picture could not be read, None if it could.
    """

    file: Path
    size: tuple[int, int] = (0, 0)
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    drawn: Image.Image | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything but the drawn picture, as JSON values."""
        if self.error is not None:
            return {"file": str(self.file), "error": self.error}
        return {"file": str(self.file), "width": self.size[0], "height": self.size[1], **self.results}


@final
class Predictor:
    """A trained model with everything around it: reading, resizing, batches, names of classes, pictures.

    Args:
        source: A model, which is copied, or what `create_model` takes for a trained one.
        device: Where it runs, by default the GPU if there is one.
        batch_size: Pictures at a time.

    Example:
        >>> predictor = Predictor("tf_efficientnet_lite0_cls.in1k")
        >>> for prediction in predictor.predict(["photo.jpg", "folder"]):
        ...     print(prediction.file, prediction.results["cls"][0]["label"])
    """

    def __init__(self, source: str | BrickCollection, *, device: str | None = None, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise BrickInputError("batch_size", "1 or more", f"{batch_size}")
        self.device = _usable(device) if device else "cuda" if torch.cuda.is_available() else "cpu"
        model = copy.deepcopy(source) if isinstance(source, BrickCollection) else create_model(source, pretrained=True)
        self.model = model.sub_collection(tags=Stage.INFERENCE.tags).to(self.device).eval()
        self.batch_size = batch_size
        self._heads = {
            place_of(path): brick.metadata for path, brick in self.model.bricks().items() if "task" in brick.metadata
        }
        self._painters = {head: model[f"{head}/picture"] for head in self._heads if f"{head}/picture" in model}
        spec = BackboneSpec.from_json(model["backbone"].metadata["provides"]).input
        self._size = spec.size
        dense = any(get_task(facts["task"]).is_dense for facts in self._heads.values())
        self._mode = {1: "L", 3: "RGB"}.get(spec.channels)
        self._channels = spec.channels
        self._transform = create_transform(
            (spec.channels, *spec.size),
            interpolation=spec.interpolation,
            crop_pct=1.0 if dense else spec.crop_pct,
            crop_mode="squash" if dense else spec.crop_mode,
            normalize=False,  # the model's preprocessor does it
        )

    @torch.inference_mode()
    def __call__(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the model on a batch of arrays.

        Args:
            named_inputs: `image`, (B, C, H, W) uint8, or float in [0, 1].

        Returns:
            Every output of the heads by name, e.g. `cls/probabilities` (B, K).
        """
        tensors = {
            name: torch.tensor(np.ascontiguousarray(array), device=self.device) for name, array in named_inputs.items()
        }
        values = self.model(tensors, return_inputs=False)
        own = {name: value for name, value in values.items() if name.partition("/")[0] in self._heads}
        return {name: torch_to_numpy(value) for name, value in own.items() if isinstance(value, torch.Tensor)}

    def find(self, pictures: str | Path | Iterable[str | Path]) -> list[Path]:
        """The files that `predict` would look at; its errors are those of `predict`."""
        return find_pictures([pictures] if isinstance(pictures, (str, Path)) else pictures)

    def predict(
        self, pictures: str | Path | Iterable[str | Path], *, draw: bool = False, progress: bool = False
    ) -> Iterator[Prediction]:
        """Say what is on pictures, one after the other.

        Args:
            pictures: Files and folders.
            draw: Also draw what was found.
            progress: Show a bar.

        Yields:
            A prediction for each picture; one that cannot be read has an `error` and does not stop the others.

        Raises:
            BrickInputError: A place that is not there, or a folder without pictures.
        """
        if self._mode is None:
            raise BrickInputError("the model", "1 or 3 channels for pictures", f"{self._channels}", "Pass arrays.")
        files = self.find(pictures)
        with tqdm(total=len(files), unit="picture", disable=None if progress else True, leave=False) as bar:
            for start in range(0, len(files), self.batch_size):
                batch = files[start : start + self.batch_size]
                yield from self._predict_batch(batch, draw)
                bar.update(len(batch))

    def _predict_batch(self, files: list[Path], draw: bool) -> Iterator[Prediction]:
        read: dict[Path, Image.Image] = {}
        errors: dict[Path, str] = {}
        for file in files:
            try:
                read[file] = read_picture(file)
            except BrickInputError as error:
                errors[file] = str(error)
        values: dict[str, npt.NDArray[Any]] = {}
        if read:
            values = self(
                {"image": np.stack([self._transform(picture.convert(self._mode)) for picture in read.values()])}
            )
        row = itertools.count()
        for file in files:
            if file in errors:
                yield Prediction(file, error=errors[file])
            else:
                index = next(row)
                yield self._prediction(file, read[file], {name: array[index] for name, array in values.items()}, draw)

    def _prediction(self, file: Path, picture: Image.Image, values: Mapping[str, Any], draw: bool) -> Prediction:
        results = {}
        for head, facts in self._heads.items():
            task = get_task(facts["task"])
            found = task.on_picture(_own(values, head), self._size, (picture.height, picture.width))
            results[head] = task.results(found, facts["labels"])
        return Prediction(file, picture.size, results, self._drawn(picture, values) if draw else None)

    def _drawn(self, picture: Image.Image, values: Mapping[str, Any]) -> Image.Image:
        """All heads on one picture: the dense ones first, onto it; then those that write beside it."""
        drawn = picture.copy()
        drawn.thumbnail((_DRAWN_SIDE, _DRAWN_SIDE))
        size = (drawn.height, drawn.width)
        for head in sorted(self._painters, key=lambda head: not get_task(self._heads[head]["task"]).is_dense):
            task = get_task(self._heads[head]["task"])
            found = task.on_picture(_own(values, head), self._size, size)
            shown = {"image": np.asarray(drawn), **{f"{head}/{name}": value for name, value in found.items()}}
            painter = self._painters[head]
            drawn = painter.callable(**{argument: shown[name] for argument, name in painter.input_names.items()})
        return drawn


def _own(values: Mapping[str, Any], head: str) -> dict[str, Any]:
    """A head's values, by the last part of their names."""
    return {name.removeprefix(f"{head}/"): value for name, value in values.items() if name.startswith(f"{head}/")}


def _usable(device: str) -> str:
    """The name of a device that is there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BrickInputError("device", "one of this machine, e.g. 'cpu'", f"'{device}' ({error})") from None
    return device
