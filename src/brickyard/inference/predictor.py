"""From pictures to what is on them."""

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
from brickyard.inference.shards import Picture
from brickyard.storage.sources.uri import locate
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

    It can be called from several threads at once, and pickled if it was made from a name or a place: each process then
    builds its own. An engine that holds a class and calls it with batches of columns takes it as it is:

        dataset.map_batches(Predictor, fn_constructor_args=("tf_efficientnet_lite0_cls.in1k",), ...)  # ray.data

    Args:
        source: What `create_model` takes for a trained model (a name, a folder, a URI of the Hub), a path to a folder
            or a lock, a file that `export_onnx` wrote, or a model, which is copied.
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
        found = source if isinstance(source, BrickCollection) else locate(source)
        self._source = None if isinstance(found, BrickCollection) else found
        self._options = (device, batch_size, outputs, channels_last, compile)
        self._run = open_runner(found, _trained, device, outputs, channels_last=channels_last, compile=compile)
        self.batch_size = batch_size
        is_dense = any(get_task(facts["task"]).is_dense for facts in self._run.heads.values())
        self.reader = ImageReader(self._run.images, is_dense=is_dense)

    @property
    def heads(self) -> list[str]:
        """The names of its heads, in their order."""
        return list(self._run.heads)

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._run.device

    def hashes(self) -> dict[str, str]:
        """The sha256 of each brick, weights and settings, by its path; of an exported file, that of the file."""
        return self._run.hashes()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is None:
            raise TypeError("A predictor of a model in memory is not pickled: make it of a name, a folder or a URI.")
        return _remade, (self._source, *self._options)

    def __call__(self, named_inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the model on a batch of arrays.

        Args:
            named_inputs: `image`, (B, C, H, W) uint8, or float in [0, 1]; and whatever else is known of each row.

        Returns:
            What the model does not read, such as a column of paths, as it is; then the heads' outputs by name, e.g.
            `cls/probabilities` (B, K). The images are not among them.

        Raises:
            MissingInputError: No `image`.
            BrickInputError: Images that the model does not take, or a column that has the name of an output.
        """
        reads = self._run.reads
        missing = [(name, "the model") for name, is_needed in reads.items() if is_needed and name not in named_inputs]
        if missing:
            raise MissingInputError(missing, named_inputs)
        read = {name: array for name, array in named_inputs.items() if name in reads}
        for name, array in read.items():
            if np.asarray(array).dtype == np.object_:
                hint = "Resize them to one size first."
                raise BrickInputError(name, "an array (B, C, H, W)", "objects, as of images of several sizes", hint)
        beside = {name: column for name, column in named_inputs.items() if name not in reads}
        outputs = self._run(read)
        if taken := sorted(beside.keys() & outputs.keys()):
            raise BrickInputError("the columns", "no names of the model's outputs", f"{taken}", "Rename or drop them.")
        return {**beside, **outputs}

    def read(self, files: Iterable[Path]) -> npt.NDArray[Any]:
        """Pictures as the model takes them, (B, C, H, W) uint8.

        Raises:
            BrickInputError: One cannot be read, or the model takes no pictures.
        """
        return np.stack([self.reader.image(read_image(file)).numpy() for file in files])

    def find(self, pictures: str | Path | Iterable[str | Path]) -> list[Path]:
        """The files that `predict` would look at; its errors are those of `predict`."""
        return find_images([pictures] if isinstance(pictures, (str, Path)) else pictures)

    def results(self, batch: Batch) -> list[dict[str, list[dict[str, Any]]]]:
        """What is on the pictures that `reader` read: for each what its heads say, nothing for an unread one."""
        return [
            {} if size is None else self._on_image(values, size)
            for size, values in zip(batch.sizes, self._values(batch), strict=True)
        ]

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
        with tqdm(total=len(files), unit="visualization", disable=None if progress else True, leave=False) as bar:
            for start in range(0, len(files), self.batch_size):
                batch = files[start : start + self.batch_size]
                yield from self._predict_batch(batch, draw)
                bar.update(len(batch))

    def _predict_batch(self, files: list[Path], draw: bool) -> Iterator[Prediction]:
        batch = self.reader((Picture(str(file), str(file)) for file in files), keep=draw)
        pictures = iter(batch.pictures)
        rows = zip(files, batch.sizes, batch.errors, self._values(batch), strict=True)
        for file, size, error, values in rows:
            if size is None:
                yield Prediction(file, error=error)
            else:
                drawn = self._drawn(next(pictures), values) if draw else None
                yield Prediction(file, size, self._on_image(values, size), drawn)

    def _values(self, batch: Batch) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The outputs for each picture, without batch dimension; none for an unread one."""
        values = self._run({"image": batch.image.numpy()}) if len(batch.image) else {}
        row = itertools.count()
        for size in batch.sizes:
            index = None if size is None else next(row)
            yield {} if index is None else {name: array[index] for name, array in values.items()}

    def _on_image(self, values: Mapping[str, Any], size: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
        """What each head says of a picture of `size`, (width, height)."""
        results = {}
        for head, facts in self._run.heads.items():
            with _of_all_outputs(head):
                task = get_task(facts["task"])
                found = task.on_image(_own(values, head), self._run.images.size, size[::-1])
                results[head] = task.results(found, facts["labels"])
        return results

    def _drawn(self, picture: Image.Image, values: Mapping[str, Any]) -> Image.Image:
        """All heads on one picture: the dense ones first, onto it; then those that write beside it."""
        drawn = picture.copy()
        drawn.thumbnail((_DRAWN_SIDE, _DRAWN_SIDE))
        size = (drawn.height, drawn.width)
        painters = {path.removesuffix("/picture"): brick for path, brick in self._run.beside.bricks().items()}
        heads = [head for head in self._run.heads if isinstance(painters.get(head), BrickPerImageVisualization)]
        for head in sorted(heads, key=lambda head: not get_task(self._run.heads[head]["task"]).is_dense):
            task = get_task(self._run.heads[head]["task"])
            painter: Any = painters[head]
            with _of_all_outputs(head):
                found = task.on_image(_own(values, head), self._run.images.size, size)
                shown = {"image": np.asarray(drawn), **{f"{head}/{name}": value for name, value in found.items()}}
                given = {argument: shown[name] for argument, name in painter.input_names.items()}
            drawn = painter.callable(**given)
        return drawn


@contextmanager
def _of_all_outputs(head: str) -> Iterator[None]:
    """Say which output a file was exported without, or was not asked for."""
    try:
        yield
    except KeyError as error:
        problem = f"the outputs lack its {error}: ask for all, or export the file with all"
        raise BrickMismatchError(f"Head '{head}' cannot say what it found", [problem]) from None


def _own(values: Mapping[str, Any], head: str) -> dict[str, Any]:
    """A head's values, by the last part of their names."""
    return {name.removeprefix(f"{head}/"): value for name, value in values.items() if name.startswith(f"{head}/")}


def _trained(source: str) -> BrickCollection:
    return create_model(source, pretrained=True)


def _remade(
    source: str, device: str | None, batch_size: int, outputs: Sequence[str] | None, channels_last: bool, compile: bool
) -> Predictor:
    return Predictor(
        source, device=device, batch_size=batch_size, outputs=outputs, channels_last=channels_last, compile=compile
    )
