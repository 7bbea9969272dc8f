"""Pictures as a model takes them: the part of a prediction that other processes can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any, NamedTuple, final

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from brickyard.core.specs import InputSpec
from brickyard.data.images import read_image
from brickyard.errors import BrickInputError
from brickyard.inference.shards import Picture, Shard


@final
class Batch(NamedTuple):
    """Some pictures, in their order.

    Attributes:
        names: What each is called.
        sizes: Their (width, height) in pixels, upright; None for one that could not be read.
        errors: Why one could not be read, else None.
        image: Those that were read, (M, C, H, W) uint8.
        pictures: The same as they were, if they were to be kept.
    """

    names: list[str]
    sizes: list[tuple[int, int] | None]
    errors: list[str | None]
    image: Tensor
    pictures: list[Image.Image]


@final
class ImageReader:
    """Reads, resizes and crops pictures for a model. It is small, and can be pickled.

    Args:
        images: The images that the model takes.
        is_dense: Whether its outputs have places on the picture; the whole picture is then squeezed into the image.
    """

    def __init__(self, images: InputSpec, *, is_dense: bool) -> None:
        self._channels = images.channels
        self._transform = create_transform(
            (images.channels, *images.size),
            interpolation=images.interpolation,
            crop_pct=1.0 if is_dense else images.crop_pct,
            crop_mode="squash" if is_dense else images.crop_mode,
            normalize=False,  # the model's preprocessor does it
        )

    def __call__(self, pictures: Iterable[Picture], *, keep: bool = False) -> Batch:
        """Read pictures; what cannot be read is told in the batch.

        Args:
            pictures: Files or bytes, with their names.
            keep: Give the pictures as well, beside the image that is made of them.

        Raises:
            BrickInputError: The model takes no pictures, but images of other channels.
        """
        batch = Batch([], [], [], torch.empty(0), [])
        images = []
        for picture in pictures:
            batch.names.append(picture.name)
            try:
                read = _read(picture)
            except BrickInputError as error:
                batch.sizes.append(None)
                batch.errors.append(_told(error, picture))
                continue
            batch.sizes.append(read.size)
            batch.errors.append(None)
            images.append(self.image(read))
            if keep:
                batch.pictures.append(read)
        return batch._replace(image=torch.stack(images)) if images else batch

    def image(self, picture: Image.Image) -> Tensor:
        """A picture as the model takes it, (C, H, W) uint8."""
        mode = {1: "L", 3: "RGB"}.get(self._channels)
        if mode is None:
            raise BrickInputError("the model", "1 or 3 channels for pictures", f"{self._channels}", "Pass arrays.")
        image: Tensor = self._transform(picture.convert(mode))
        return image


@final
class ShardBatches(IterableDataset[tuple[int, int, Batch]]):
    """The batches of shards, each shard divided among the worker processes of a `DataLoader`.

    A batch never goes over the end of a shard, so that what is in it does not depend on the number of workers.

    Args:
        shards: In the order in which they are read.
        reader: Reads a batch.
        batch_size: Pictures at a time.

    Yields:
        The number of a shard, that of a batch in it, and the batch.
    """

    def __init__(self, shards: Iterable[Shard], reader: ImageReader, batch_size: int) -> None:
        super().__init__()
        self._shards, self._reader, self._batch_size = list(shards), reader, batch_size

    def __iter__(self) -> Iterator[tuple[int, int, Batch]]:
        process = get_worker_info()
        own, processes = (0, 1) if process is None else (process.id, process.num_workers)
        for shard in self._shards:
            batches = batches_of(shard, self._batch_size)
            turn = (own + shard.number) % processes  # or the last process would always have one batch more
            first, end = batches * turn // processes, batches * (turn + 1) // processes
            stop = min(end * self._batch_size, len(shard))
            pictures = shard.pictures(first * self._batch_size, stop)
            for number in range(first, end):
                size = min(self._batch_size, stop - number * self._batch_size)
                yield shard.number, number, self._reader(next(pictures) for _ in range(size))

    def loader(self, workers: int) -> DataLoader[Any]:
        """Read by so many processes, or in this one for 0."""
        return DataLoader(self, batch_size=None, collate_fn=_as_it_is, num_workers=workers)


def batches_of(shard: Shard, batch_size: int) -> int:
    """How many batches a shard has."""
    return -(-len(shard) // batch_size)


@final
class _NamedBytes(BytesIO):
    """An encoded picture in memory, of which errors tell the name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _read(picture: Picture) -> Image.Image:
    if picture.source is None:
        raise BrickInputError(picture.name, "a picture", picture.problem)
    source: Any = _NamedBytes(picture.source, picture.name) if isinstance(picture.source, bytes) else picture.source
    return read_image(source)


def _told(error: BrickInputError, picture: Picture) -> str:
    """An error with the picture's name, wherever its file was found."""
    text = str(error)
    return text.replace(picture.source, picture.name) if isinstance(picture.source, str) else text


def _as_it_is(batch: Any) -> Any:
    return batch
