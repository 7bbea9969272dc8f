"""From pictures to what is on them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data import create_transform
from tqdm import tqdm

from brickyard.collection import BrickCollection
from brickyard.create import create_model
from brickyard.errors import BrickInputError
from brickyard.parts.pictures import find_pictures, read_picture
from brickyard.runners import open_runner
from brickyard.tasks.registry import get_task
from brickyard.visualization import BrickPerImageVisualization

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

    It can be called from several threads, and pickled if it was made from a name or a place: each process then builds
    its own.

    Args:
        source: What `create_model` takes for a trained model (a name, a folder, a URI of the Hub), a file that
            `export_onnx` wrote, or a model, which is copied.
        device: Where it runs, by default the GPU if there is one.
        batch_size: Pictures at a time.
        outputs: Only these values, for callers who pass arrays; None for all that the heads make.
        channels_last: Lay tensors out with channels last: faster for most convolutional models in batches.
        compile: Compile the model by torch when it is first called; each new size of batch or image compiles again.

    Raises:
        BrickInputError: No such device, or options that an exported file does not take.
        Else as for `create_model`.

    Example:
        >>> predictor = Predictor("tf_efficientnet_lite0_cls.in1k")
        >>> for prediction in predictor.predict(["photo.jpg", "folder"]):
        ...     print(prediction.file, prediction.results["cls"][0]["label"])
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BrickCollection,
        *,
        device: str | None = None,
        batch_size: int = 16,
        outputs: Sequence[str] | None = None,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        if batch_size < 1:
            raise BrickInputError("batch_size", "1 or more", f"{batch_size}")
        self._made_of = (source, device, batch_size, outputs, channels_last, compile)
        trained = partial(create_model, pretrained=True)
        self._run = open_runner(source, trained, device, outputs, channels_last=channels_last, compile=compile)
        self.batch_size = batch_size
        images = self._run.images
        dense = any(get_task(facts["task"]).is_dense for facts in self._run.heads.values())
        self._mode = {1: "L", 3: "RGB"}.get(images.channels)
        self._transform = create_transform(
            (images.channels, *images.size),
            interpolation=images.interpolation,
            crop_pct=1.0 if dense else images.crop_pct,
            crop_mode="squash" if dense else images.crop_mode,
            normalize=False,  # the model's preprocessor does it
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._made_of[0], BrickCollection):
            raise TypeError("A predictor of a model in memory is not pickled: make it of a name, a folder or a URI.")
        return _remade, self._made_of

    def __call__(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the model on a batch of arrays.

        Args:
            named_inputs: `image`, (B, C, H, W) uint8, or float in [0, 1].

        Returns:
            The heads' outputs by name, e.g. `cls/probabilities` (B, K).
        """
        return self._run(named_inputs)

    def read(self, files: Iterable[Path]) -> npt.NDArray[Any]:
        """Pictures as the model takes them, (B, C, H, W) uint8.

        Raises:
            BrickInputError: One cannot be read, or the model takes no pictures.
        """
        return self._stacked([read_picture(file) for file in files])

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
            values = self({"image": self._stacked(list(read.values()))})
        row = itertools.count()
        for file in files:
            if file in errors:
                yield Prediction(file, error=errors[file])
            else:
                index = next(row)
                yield self._prediction(file, read[file], {name: array[index] for name, array in values.items()}, draw)

    def _stacked(self, pictures: Sequence[Image.Image]) -> npt.NDArray[Any]:
        if self._mode is None:
            found = f"{self._run.images.channels}"
            raise BrickInputError("the model", "1 or 3 channels for pictures", found, "Pass arrays.")
        return np.stack([self._transform(picture.convert(self._mode)) for picture in pictures])

    def _prediction(self, file: Path, picture: Image.Image, values: Mapping[str, Any], draw: bool) -> Prediction:
        results = {}
        for head, facts in self._run.heads.items():
            task = get_task(facts["task"])
            found = task.on_picture(_own(values, head), self._run.images.size, (picture.height, picture.width))
            results[head] = task.results(found, facts["labels"])
        return Prediction(file, picture.size, results, self._drawn(picture, values) if draw else None)

    def _drawn(self, picture: Image.Image, values: Mapping[str, Any]) -> Image.Image:
        """All heads on one picture: the dense ones first, onto it; then those that write beside it."""
        drawn = picture.copy()
        drawn.thumbnail((_DRAWN_SIDE, _DRAWN_SIDE))
        size = (drawn.height, drawn.width)
        painters = {path.removesuffix("/picture"): brick for path, brick in self._run.beside.bricks().items()}
        heads = [head for head in self._run.heads if isinstance(painters.get(head), BrickPerImageVisualization)]
        for head in sorted(heads, key=lambda head: not get_task(self._run.heads[head]["task"]).is_dense):
            task = get_task(self._run.heads[head]["task"])
            found = task.on_picture(_own(values, head), self._run.images.size, size)
            shown = {"image": np.asarray(drawn), **{f"{head}/{name}": value for name, value in found.items()}}
            painter: Any = painters[head]
            drawn = painter.callable(**{argument: shown[name] for argument, name in painter.input_names.items()})
        return drawn


def _own(values: Mapping[str, Any], head: str) -> dict[str, Any]:
    """A head's values, by the last part of their names."""
    return {name.removeprefix(f"{head}/"): value for name, value in values.items() if name.startswith(f"{head}/")}


def _remade(
    source: str, device: str | None, batch_size: int, outputs: Sequence[str] | None, channels_last: bool, compile: bool
) -> Predictor:
    return Predictor(
        source, device=device, batch_size=batch_size, outputs=outputs, channels_last=channels_last, compile=compile
    )
