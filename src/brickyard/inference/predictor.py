"""Predict the results of a model for image files."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from brickyard.collection import BrickCollection
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.create import create_model
from brickyard.data.images import find_images, read_image
from brickyard.errors import BrickInputError, BrickMismatchError, MissingInputError
from brickyard.inference.reading import Batch, ImageReader
from brickyard.inference.runners import open_runner
from brickyard.inference.shards import ImageSource
from brickyard.storage.sources.uri import locate
from brickyard.tasks.registry import get_task

_MAX_VISUALIZATION_SIDE = 1600  # pixels


@final
@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        file: The image file.
        size: (width, height) in pixels after EXIF rotation; (0, 0) if the image could not be read.
        results: For each head the results of its task, best first; see `Task.results`.
        visualization: The image with the results of every head drawn on it; None if nothing was drawn.
        error: Why the image could not be read, or None.
    """

    file: Path
    size: tuple[int, int] = (0, 0)
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    visualization: Image.Image | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything except the visualization, as JSON values."""
        if self.error is not None:
            return {"file": str(self.file), "error": self.error}
        return {"file": str(self.file), "width": self.size[0], "height": self.size[1], **self.results}


@final
class Predictor:
    """Run a trained model on image files: read, resize, batch, predict, and name the classes.

    It can be called from several threads at once. It can be pickled if it was created from a name or path: each process
    then loads the model again. An engine that creates a class and calls it with batches of columns takes it as it is:

        dataset.map_batches(Predictor, fn_constructor_args=("tf_efficientnet_lite0_cls.in1k",), ...)  # ray.data

    Args:
        source: A trained model for `create_model` (a name, a folder, a URI of the Hub), the path of a folder or a lock,
            a file written by `export_onnx`, or a model, which is copied.
        device: Device of the model, by default a GPU if there is one.
        batch_size: Number of images per batch.
        outputs: Names of the values to compute when called with arrays; None is all outputs of the heads.
        channels_last: Whether to use the channels-last memory format, which is faster for most convolutional models in
            batches.
        compile: Whether to compile the model with torch at its first call; each new batch or image size compiles again.

    Raises:
        BrickInputError: The device is not available, or an exported file does not support an option.
        The exceptions of `create_model`.

    Example:
        >>> import brickyard
        >>> samples = Path(brickyard.__file__).parent / "samples"
        >>> for prediction in brickyard.Predictor("tf_efficientnet_lite0_cls.in1k").predict(samples):
        ...     print(prediction.file.name, prediction.results["cls"][0]["label"])
        chelsea.jpg tiger cat
        coffee.jpg espresso
        rocket.jpg missile
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
        located = source if isinstance(source, BrickCollection) else locate(source)
        self._source = None if isinstance(located, BrickCollection) else located
        self._options = (device, batch_size, outputs, channels_last, compile)
        self._run = open_runner(located, _load, device, outputs, channels_last=channels_last, compile=compile)
        self.batch_size = batch_size
        is_dense = any(get_task(metadata["task"]).is_dense for metadata in self._run.heads.values())
        self.reader = ImageReader(self._run.images, is_dense=is_dense)

    @property
    def heads(self) -> list[str]:
        """The names of the heads, in the order of the model."""
        return list(self._run.heads)

    @property
    def device(self) -> str:
        """The device of the model."""
        return self._run.device

    def hashes(self) -> dict[str, str]:
        """Return the sha256 of each brick (weights and configuration) by path, or of an exported file."""
        return self._run.hashes()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is None:
            raise TypeError("A predictor of a model in memory cannot be pickled: create it from a name, path or URI.")
        return _recreate, (self._source, *self._options)

    def __call__(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the model on a batch of arrays.

        Args:
            named_inputs: `image`, (B, C, H, W) uint8, or float in [0, 1]; and any other columns of the batch.

        Returns:
            The columns that the model does not read (e.g. paths) unchanged, then the outputs of the heads by name, e.g.
            `cls/probabilities` (B, K). The images are left out.

        Raises:
            MissingInputError: There is no `image`.
            BrickInputError: The model does not take such images, or a column has the name of an output.
        """
        reads = self._run.reads
        missing = [
            (name, "the model") for name, is_required in reads.items() if is_required and name not in named_inputs
        ]
        if missing:
            raise MissingInputError(missing, named_inputs)
        inputs = {name: array for name, array in named_inputs.items() if name in reads}
        for name, array in inputs.items():
            if np.asarray(array).dtype == np.object_:
                hint = "Resize the images to one size first."
                raise BrickInputError(
                    name, "an array (B, C, H, W)", "an array of objects, e.g. images of several sizes", hint
                )
        others = {name: column for name, column in named_inputs.items() if name not in reads}
        outputs = self._run(inputs)
        if taken := sorted(others.keys() & outputs.keys()):
            hint = "Rename or drop them."
            raise BrickInputError("the columns", "names that differ from the model's outputs", f"{taken}", hint)
        return {**others, **outputs}

    def read(self, files: Iterable[Path]) -> npt.NDArray[Any]:
        """Read and preprocess image files: (B, C, H, W) uint8.

        Raises:
            BrickInputError: A file cannot be read, or the model takes neither 1 nor 3 channels.
        """
        return np.stack([self.reader.preprocess(read_image(file)).numpy() for file in files])

    def find(self, sources: str | Path | Iterable[str | Path]) -> list[Path]:
        """List the image files that `predict` reads. Raises as `predict` does."""
        return find_images([sources] if isinstance(sources, (str, Path)) else sources)

    def results(self, batch: Batch) -> list[dict[str, list[dict[str, Any]]]]:
        """Predict the results of each head for the images of a batch of `reader`; {} for an unreadable image."""
        return [
            {} if size is None else self._results(outputs, size)
            for size, outputs in zip(batch.sizes, self._outputs(batch), strict=True)
        ]

    def predict(
        self, sources: str | Path | Iterable[str | Path], *, draw: bool = False, progress: bool = False
    ) -> Iterator[Prediction]:
        """Predict images, one after the other.

        Args:
            sources: Image files and folders.
            draw: Whether to draw the results.
            progress: Whether to show a progress bar.

        Yields:
            A prediction for each image. For an image that cannot be read it has an `error`, and the others follow.

        Raises:
            BrickInputError: A source does not exist, or a folder has no images.
        """
        files = self.find(sources)
        with tqdm(total=len(files), unit="image", disable=None if progress else True, leave=False) as bar:
            for start in range(0, len(files), self.batch_size):
                batch = files[start : start + self.batch_size]
                yield from self._predict_batch(batch, draw)
                bar.update(len(batch))

    def _predict_batch(self, files: list[Path], draw: bool) -> Iterator[Prediction]:
        batch = self.reader((ImageSource(str(file), str(file)) for file in files), keep_originals=draw)
        originals = iter(batch.originals)
        rows = zip(files, batch.sizes, batch.errors, self._outputs(batch), strict=True)
        for file, size, error, outputs in rows:
            if size is None:
                yield Prediction(file, error=error)
            else:
                visualization = self._draw(next(originals), outputs) if draw else None
                yield Prediction(file, size, self._results(outputs, size), visualization)

    def _outputs(self, batch: Batch) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the outputs for each image, without batch dimension; {} for an unreadable image."""
        outputs = self._run({"image": batch.image.numpy()}) if len(batch.image) else {}
        rows = itertools.count()
        for size in batch.sizes:
            index = None if size is None else next(rows)
            yield {} if index is None else {name: array[index] for name, array in outputs.items()}

    def _results(self, outputs: Mapping[str, Any], size: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
        """Compute the results of each head for an image of `size`, (width, height) in pixels."""
        results = {}
        for head, metadata in self._run.heads.items():
            with _missing_output_error(head):
                task = get_task(metadata["task"])
                resized = task.on_image(_of_head(outputs, head), self._run.images.size, size[::-1])
                results[head] = task.results(resized, metadata["labels"])
        return results

    def _draw(self, image: Image.Image, outputs: Mapping[str, Any]) -> Image.Image:
        """Draw the results of all heads: first the dense ones, over the image, then those that extend the image."""
        drawn = image.copy()
        drawn.thumbnail((_MAX_VISUALIZATION_SIDE, _MAX_VISUALIZATION_SIDE))
        size = (drawn.height, drawn.width)
        bricks = self._run.auxiliary.bricks()
        drawing: dict[str, Any] = {}
        for head in self._run.heads:
            brick = bricks.get(f"{head}/visualization")
            if isinstance(brick, BrickPerImageVisualization):
                drawing[head] = brick
        for head in sorted(drawing, key=lambda head: not get_task(self._run.heads[head]["task"]).is_dense):
            task = get_task(self._run.heads[head]["task"])
            brick = drawing[head]
            with _missing_output_error(head):
                resized = task.on_image(_of_head(outputs, head), self._run.images.size, size)
                values = {"image": np.asarray(drawn), **{f"{head}/{name}": value for name, value in resized.items()}}
                arguments = {argument: values[name] for argument, name in brick.input_names.items()}
            drawn = brick.callable(**arguments)
        return drawn


@contextmanager
def _missing_output_error(head: str) -> Iterator[None]:
    """Raise an error that names the output which an exported file, or the selection of outputs, lacks."""
    try:
        yield
    except KeyError as error:
        problem = f"its output {error} is missing: use all outputs, or export the file with all outputs"
        raise BrickMismatchError(f"The results of head '{head}' cannot be computed", [problem]) from None


def _of_head(outputs: Mapping[str, Any], head: str) -> dict[str, Any]:
    """Return the outputs of a head by the last part of their names."""
    return {name.removeprefix(f"{head}/"): value for name, value in outputs.items() if name.startswith(f"{head}/")}


def _load(source: str) -> BrickCollection:
    return create_model(source, pretrained=True)


def _recreate(
    source: str, device: str | None, batch_size: int, outputs: Sequence[str] | None, channels_last: bool, compile: bool
) -> Predictor:
    return Predictor(
        source, device=device, batch_size=batch_size, outputs=outputs, channels_last=channels_last, compile=compile
    )
