"""Read and preprocess images for a model: the part of a prediction that data loading processes do."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, final

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from brickyard.core.specs import InputSpec
from brickyard.data.geometry import FRAME_FILL, ResizeGeometry, resize_geometry
from brickyard.errors import BrickInputError
from brickyard.inference.shards import Shard
from brickyard.inference.sources import ImageSource, open_image

_LETTERBOX = "letterbox"


@final
class Batch(NamedTuple):
    """A batch of N images, of which M could be read.

    Attributes:
        names: The N names.
        sizes: The N sizes, (width, height) in pixels after EXIF rotation; None for an unreadable image.
        errors: N entries: None, or why the image could not be read.
        image: (M, C, H, W) uint8, the preprocessed images.
        originals: The M images before preprocessing if they are kept, else empty.
    """

    names: list[str]
    sizes: list[tuple[int, int] | None]
    errors: list[str | None]
    image: Tensor
    originals: list[Image.Image]


@final
class ImageReader:
    """Read, resize and crop images for a model. It can be pickled.

    Args:
        images: The input of the model.
    """

    def __init__(self, images: InputSpec) -> None:
        self._images = images
        self._transform = create_transform(
            (images.channels, *images.size),
            interpolation=images.interpolation,
            crop_pct=images.crop_pct,
            crop_mode="squash" if images.resize_mode == _LETTERBOX else images.crop_mode,
            normalize=False,  # the model's preprocessor normalizes
        )

    def __call__(self, sources: Iterable[ImageSource], *, keep_originals: bool = False) -> Batch:
        """Read images into a batch; an unreadable image becomes an entry of `errors`.

        Args:
            sources: The sources of the images.
            keep_originals: Whether the batch gets the images before preprocessing, too.

        Raises:
            BrickInputError: The model takes neither 1 nor 3 channels.
            OSError, MemoryError: The machine failed, see `read_image`.
        """
        batch = Batch([], [], [], torch.empty(0), [])
        images = []
        for source in sources:
            batch.names.append(source.name)
            try:
                original = open_image(source)
            except BrickInputError as error:
                batch.sizes.append(None)
                batch.errors.append(_error_text(error, source))
                continue
            batch.sizes.append(original.size)
            batch.errors.append(None)
            images.append(self.preprocess(original))
            if keep_originals:
                batch.originals.append(original)
        return batch._replace(image=torch.stack(images)) if images else batch

    def preprocess(self, image: Image.Image) -> Tensor:
        """Resize an image, and crop or pad it: (C, H, W) uint8."""
        channels = self._images.channels
        mode = {1: "L", 3: "RGB"}.get(channels)
        if mode is None:
            raise BrickInputError("the model", "1 or 3 channels for images", f"{channels}", "Pass arrays.")
        image = image.convert(mode)
        if self._images.resize_mode == _LETTERBOX:
            image = self._letterboxed(image)
        tensor: Tensor = self._transform(image)
        return tensor

    def geometry(self, size: tuple[int, int]) -> ResizeGeometry:
        """Return where an image of `size`, (width, height), lies in the input of the model, unless it is cropped."""
        return resize_geometry(size[::-1], self._images.size, self._images.resize_mode)

    def _letterboxed(self, image: Image.Image) -> Image.Image:
        """Scale an image to fit into the input, and pad it with grey."""
        geometry = self.geometry(image.size)
        top, left, height, width = geometry.content
        resampling = Image.Resampling[self._images.interpolation.upper()]
        frame = Image.new(image.mode, geometry.size[::-1], (FRAME_FILL,) * len(image.getbands()))
        frame.paste(image.resize((width, height), resampling), (left, top))
        return frame


@final
class ShardBatches(IterableDataset[tuple[int, int, Batch | OSError]]):
    """Iterate over the batches of shards; the batches of each shard are split over the workers of a `DataLoader`.

    A batch has images of one shard only, so that its content does not depend on the number of workers.

    Args:
        shards: The shards, in reading order.
        reader: Reads a batch.
        batch_size: Number of images per batch.

    Yields:
        The number of a shard, the index of a batch in it, and the batch; or, at last, the error of the machine that
        ended the reading, which a data loader would wrap in another one.
    """

    def __init__(self, shards: Iterable[Shard], reader: ImageReader, batch_size: int) -> None:
        super().__init__()
        self._shards, self._reader, self._batch_size = list(shards), reader, batch_size

    def __iter__(self) -> Iterator[tuple[int, int, Batch | OSError]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for shard in self._shards:
            batches = num_batches(shard, self._batch_size)
            turn = (worker + shard.number) % workers  # rotated: the same worker would always get the extra batch
            first, end = batches * turn // workers, batches * (turn + 1) // workers
            stop = min(end * self._batch_size, len(shard))
            sources = shard.images(first * self._batch_size, stop)
            for index in range(first, end):
                size = min(self._batch_size, stop - index * self._batch_size)
                try:
                    batch = self._reader(itertools.islice(sources, size))
                except OSError as error:
                    yield shard.number, index, error
                    return
                yield shard.number, index, batch

    def loader(self, workers: int) -> DataLoader[Any]:
        """Create a data loader with a number of worker processes; 0 loads in this process."""
        return DataLoader(self, batch_size=None, collate_fn=_identity, num_workers=workers)


def num_batches(shard: Shard, batch_size: int) -> int:
    """Return the number of batches of a shard."""
    return -(-len(shard) // batch_size)


def _error_text(error: BrickInputError, source: ImageSource) -> str:
    """Return the text of an error with the name of the image instead of its absolute path."""
    text = str(error)
    return text.replace(source.data, source.name) if isinstance(source.data, str) else text


def _identity(batch: Any) -> Any:
    return batch
