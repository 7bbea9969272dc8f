"""Predict the results of a model for images."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from brickyard.collection import BrickCollection
from brickyard.create import create_model
from brickyard.data.images import read_image
from brickyard.errors import BrickInputError, BrickMismatchError, MissingInputError
from brickyard.inference.masks import with_masks
from brickyard.inference.prediction import Prediction
from brickyard.inference.reading import Batch, ImageReader
from brickyard.inference.runners import open_runner
from brickyard.inference.settings import draw_outputs, drawing_bricks, resized_spec, selections
from brickyard.inference.sources import ImageInput, ImageSource, find_files, image_sources
from brickyard.storage.sources.uri import locate
from brickyard.tasks.registry import get_task
from brickyard.tasks.task import Task

_MAX_VISUALIZATION_SIDE = 1600  # pixels


@final
class Predictor:
    """Run a trained model on images: read, resize, batch, predict, and name the classes.

    It can be called from several threads at once. It can be pickled if it was created from a name or path: each process
    then loads the model again. An engine that creates a class and calls it with batches of columns takes it as it is:

        dataset.map_batches(Predictor, fn_constructor_args=("tf_efficientnet_lite0_cls.in1k",), ...)  # ray.data

    Args:
        source: A trained model for `create_model` (a name, a folder, a URI of the Hub), the path of a folder or a lock,
            a file or a folder written by `export_onnx`, or a model, which is copied.
        device: Device of the model, by default a GPU if there is one.
        batch_size: Number of images per batch.
        outputs: Names of the values to compute when called with arrays; None is all outputs of the heads.
        channels_last: Whether to use the channels-last memory format, which is faster for most convolutional models in
            batches.
        compile: Whether to compile the model with torch at its first call; each new batch or image size compiles again.
        threshold: The lowest score or probability of a result. None is the default that is stored with the model: for
            detections the `score_threshold` of the part that draws them, `model["det/visualization"].wrapped`; for
            other tasks 0. Detections below the `score_threshold` of `det/decode` do not exist.
        topk: The largest number of results per head. None is the default that is stored with the model: for classes of
            images the `top` of `model["cls/visualization"].wrapped`, for other tasks no limit.
        classes: The names of the classes to report and to draw, None for all.
        image_size: The size that images are resized to, one number or (H, W) in pixels; None is that of the model.
        heads: The heads of a folder written by `export_onnx(split=True)` to run, None for all that it has. Only their
            files are read, and the backbone runs once for all of them.

    Raises:
        BrickInputError: The device is not available, the model does not take the image size, or an exported file does
            not support an option.
        UnknownNameError: No head has a class of this name, or there is no such head.
        BrickMismatchError: A head of a folder is one of another backbone.
        The exceptions of `create_model`.

    Example:
        >>> import brickyard
        >>> samples = Path(brickyard.__file__).parent / "samples"
        >>> for prediction in brickyard.Predictor("tf_efficientnet_lite0_cls.in1k").predict(samples):
        ...     print(Path(prediction.name).name, prediction.results["cls"][0]["label"])
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
        threshold: float | None = None,
        topk: int | None = None,
        classes: Sequence[str] | None = None,
        image_size: int | tuple[int, int] | None = None,
        heads: Sequence[str] | None = None,
    ) -> None:
        for name, number in (("batch_size", batch_size), ("topk", topk)):
            if number is not None and number < 1:
                raise BrickInputError(name, "1 or more", f"{number}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise BrickInputError("threshold", "a number in [0, 1]", f"{threshold}")
        located = source if isinstance(source, BrickCollection) else locate(source)
        self._source = None if isinstance(located, BrickCollection) else located
        self._options: dict[str, Any] = {
            "device": device,
            "batch_size": batch_size,
            "outputs": outputs,
            "channels_last": channels_last,
            "compile": compile,
            "threshold": threshold,
            "topk": topk,
            "classes": classes,
            "image_size": image_size,
            "heads": heads,
        }
        self._run = open_runner(
            located, _load, device, outputs, channels_last=channels_last, compile=compile, heads=heads
        )
        self.batch_size = batch_size
        if untrained := [head for head, metadata in self._run.heads.items() if metadata.get("trained") is False]:
            warnings.warn(f"heads {untrained} have not been trained: their results are random.", stacklevel=2)
        self._images = self._run.images if image_size is None else resized_spec(self._run, image_size)
        self._drawing = drawing_bricks(self._run)
        self._selections = selections(self._run.heads, self._drawing, threshold, topk, classes)
        self.reader = ImageReader(self._images)

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

    def settings(self) -> dict[str, Any]:
        """Return what determines the results besides the model, as JSON values: the limits of each head, the size."""
        limits = {head: asdict(selection) for head, selection in self._selections.items()}
        return {"image_size": list(self._images.size), "limits": json.loads(json.dumps(limits))}

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is None:
            raise TypeError("A predictor of a model in memory cannot be pickled: create it from a name, path or URI.")
        return partial(Predictor, **self._options), (self._source,)

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

    def find(self, sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
        """List image files; `sources` are one or several paths, folders and patterns, as `predict` takes them."""
        return find_files([sources] if isinstance(sources, str | os.PathLike) else sources)

    def results(self, batch: Batch) -> list[dict[str, list[dict[str, Any]]]]:
        """Predict the results of each head for the images of a batch of `reader`, with masks as in `with_masks`.

        The results of an unreadable image are {}.
        """
        return [
            {} if size is None else with_masks(*self._results(outputs, size))
            for size, outputs in zip(batch.sizes, self._outputs(batch), strict=True)
        ]

    def predict(
        self, sources: ImageInput | Iterable[ImageInput], *, draw: bool = False, progress: bool = False
    ) -> Iterator[Prediction]:
        """Predict images, one after the other.

        Args:
            sources: One item or several, in any mixture: paths of image files, folders, patterns such as
                `photos/**/*.jpg`, http(s) URLs of up to 64 MiB, encoded images as bytes, Pillow images, arrays
                (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, uint8, and tensors (1, H, W) or (3, H, W), uint8 or
                float in [0, 1]. A file that occurs twice is predicted once. A list is checked before the first
                prediction; a generator is consumed in batches.
            draw: Whether to draw the results.
            progress: Whether to show a progress bar.

        Yields:
            A prediction for each image, in order. For an image that cannot be read it has an `error`, and the others
            follow.

        Raises:
            BrickInputError: An item has a wrong type or shape, does not exist, or is a folder without images.
            OSError: The machine failed, e.g. with too many open files; see `read_image`.
        """
        return self._predict(image_sources(sources), draw, progress)

    def _predict(self, sources: Iterable[ImageSource], draw: bool, progress: bool) -> Iterator[Prediction]:
        total = len(sources) if isinstance(sources, Sequence) else None
        remaining = iter(sources)
        with tqdm(total=total, unit="image", disable=None if progress else True, leave=False) as bar:
            while batch := list(itertools.islice(remaining, self.batch_size)):
                yield from self._predict_batch(batch, draw)
                bar.update(len(batch))

    def _predict_batch(self, sources: list[ImageSource], draw: bool) -> Iterator[Prediction]:
        batch = self.reader(sources, keep_originals=draw)
        originals = iter(batch.originals)
        rows = zip(sources, batch.sizes, batch.errors, self._outputs(batch), strict=True)
        for source, size, error, outputs in rows:
            if size is None:
                yield Prediction(source.name, source.file, error=error)
            else:
                visualization = self._draw(next(originals), outputs) if draw else None
                results, masks = self._results(outputs, size)
                located = tuple(head for head in results if head in masks or "boxes" in outputs[head])
                yield Prediction(source.name, source.file, size, results, masks, visualization, located=located)

    def _outputs(self, batch: Batch) -> Iterator[dict[str, dict[str, Any]]]:
        """Yield the selected outputs of each head for each image, without batch dimension; {} for an unreadable image.

        Their names are the last parts of the names in the model.
        """
        outputs = self._run({"image": batch.image.numpy()}) if len(batch.image) else {}
        by_head = {
            head: {
                name.removeprefix(f"{head}/"): value for name, value in outputs.items() if name.startswith(f"{head}/")
            }
            for head in self._run.heads
        }
        rows = itertools.count()
        for size in batch.sizes:
            index = None if size is None else next(rows)
            yield {} if index is None else {head: self._selected(head, by_head[head], index) for head in by_head}

    def _selected(self, head: str, outputs: Mapping[str, Any], index: int) -> dict[str, Any]:
        values = {name: value[index] for name, value in outputs.items()}
        with _missing_output_error(head):
            return self._task(head).select(values, self._selections[head])

    def _task(self, head: str) -> Task:
        return get_task(self._run.heads[head]["task"])

    def _results(
        self, outputs: Mapping[str, Mapping[str, Any]], size: tuple[int, int]
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, npt.NDArray[Any]]]:
        """Compute the results and masks of each head for an image of `size`, (width, height) in pixels."""
        results, masks = {}, {}
        geometry = self.reader.geometry(size)
        for head, metadata in self._run.heads.items():
            with _missing_output_error(head):
                task = self._task(head)
                resized = task.on_image(outputs[head], geometry)
                results[head] = task.results(resized, metadata["labels"])
                if (mask := task.mask(resized)) is not None:
                    masks[head] = mask
        return results, masks

    def _draw(self, image: Image.Image, outputs: Mapping[str, Mapping[str, Any]]) -> Image.Image:
        """Draw the results of all heads: first the dense ones, over the image, then those that extend the image."""
        drawn = image.copy()
        drawn.thumbnail((_MAX_VISUALIZATION_SIDE, _MAX_VISUALIZATION_SIDE))
        geometry = self.reader.geometry(image.size)._replace(original=(drawn.height, drawn.width))
        for head in sorted(self._drawing, key=lambda head: not self._task(head).is_dense):
            brick = self._drawing[head]
            with _missing_output_error(head):
                resized = self._task(head).on_image(outputs[head], geometry)
                drawn = draw_outputs(brick, head, np.asarray(drawn), resized)
        return drawn


@contextmanager
def _missing_output_error(head: str) -> Iterator[None]:
    """Raise an error that names the output which an exported file, or the selection of outputs, lacks."""
    try:
        yield
    except KeyError as error:
        problem = f"its output {error} is missing: use all outputs, or export the file with all outputs"
        raise BrickMismatchError(f"The results of head '{head}' cannot be computed", [problem]) from None


def _load(source: str) -> BrickCollection:
    return create_model(source, pretrained=True)
