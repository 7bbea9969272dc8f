"""Engines that run a model over shards of images: on this machine, or on Ray (the extra `scale`)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import Any, final

import torch

from brickyard.errors import BrickInputError, BrickMismatchError, MissingExtraError
from brickyard.inference.predictor import Predictor
from brickyard.inference.reading import Batch, ShardBatches, num_batches
from brickyard.inference.shards import Shard

Row = dict[str, Any]
OnProgress = Callable[[int], Any]


class Engine(ABC):
    """Runs a model over shards.

    Attributes:
        info: The model, as JSON values: its `source`, `heads`, `hashes`, `settings` and `batch_size`.
    """

    info: Mapping[str, Any]

    @abstractmethod
    def run(self, shards: Sequence[Shard], on_progress: OnProgress) -> Iterator[tuple[int, list[Row]]]:
        """Yield the number and the rows of each shard, in any order.

        Args:
            shards: The shards to predict.
            on_progress: Called with the number of images processed since the last call.

        Raises:
            OSError: The machine failed, e.g. with too many open files; the shards that were not yielded can be run
                again.
        """


@final
class LocalEngine(Engine):
    """Run the model in threads of this process; worker processes read, decode and resize.

    Each thread computes on one core: several batches in parallel are faster than one batch on several cores, and the
    results are bitwise the same on every engine.

    Args:
        source: See `Predictor`.
        device: See `Predictor`.
        batch_size: Number of images per batch.
        workers: Number of data loading processes; 0 loads in this process.
        threads: Number of batches that the model runs in parallel; None is one per CPU core, or one on a GPU.
        settings: Further arguments of `Predictor`: what is reported, and the image size.
    """

    def __init__(
        self,
        source: str,
        device: str | None,
        batch_size: int,
        workers: int,
        threads: int | None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        with _single_core():
            self._predictor = predictor = Predictor(source, device=device, batch_size=batch_size, **settings)
        self._workers = workers
        self._threads = threads or ((os.cpu_count() or 1) if predictor.device == "cpu" else 1)
        self.info = {
            "source": source,
            "heads": predictor.heads,
            "hashes": predictor.hashes(),
            "settings": predictor.settings(),
            "batch_size": predictor.batch_size,
        }

    def run(self, shards: Sequence[Shard], on_progress: OnProgress) -> Iterator[tuple[int, list[Row]]]:
        batch_size = self._predictor.batch_size
        remaining = {shard.number: num_batches(shard, batch_size) for shard in shards}
        rows: dict[int, dict[int, list[Row]]] = {number: {} for number in remaining}
        batches = ShardBatches(shards, self._predictor.reader, batch_size).loader(self._workers)
        for shard, index, batch_rows in self._in_threads(batches):
            rows[shard][index] = batch_rows
            on_progress(len(batch_rows))
            remaining[shard] -= 1
            if not remaining[shard]:
                yield shard, [row for _, group in sorted(rows.pop(shard).items()) for row in group]

    def _in_threads(self, batches: Iterable[tuple[int, int, Batch | OSError]]) -> Iterator[tuple[int, int, list[Row]]]:
        """Yield the rows of each batch, in order. At most two batches per thread are queued."""
        queue: deque[tuple[int, int, Future[list[Row]]]] = deque()
        with _single_core(), ThreadPoolExecutor(self._threads, initializer=_use_one_core) as pool:
            for shard, index, batch in batches:
                if isinstance(batch, OSError):
                    raise batch
                queue.append((shard, index, pool.submit(_rows, batch, self._predictor)))
                if len(queue) > 2 * self._threads:
                    yield _result(*queue.popleft())
            while queue:
                yield _result(*queue.popleft())


@final
class RayEngine(Engine):
    """Run each shard as a task of a Ray actor that has its own copy of the model. `ray_engine` creates it.

    Args:
        actors: Handles of `_Actor`.

    Raises:
        BrickMismatchError: The actors loaded different models.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self.info, *others = _results([actor.info.remote() for actor in actors])
        if any(other != self.info for other in others):
            hint = "each actor loads the source itself: pin its revision, and use a source with trained heads"
            raise BrickMismatchError(f"The actors loaded different models from {self.info['source']}", [hint])

    def run(self, shards: Sequence[Shard], on_progress: OnProgress) -> Iterator[tuple[int, list[Row]]]:
        from ray.util import ActorPool  # noqa: PLC0415

        sizes = {shard.number: len(shard) for shard in shards}
        pool = ActorPool(self._actors)
        for shard in shards:
            pool.submit(lambda actor, shard: actor.run.remote(shard), shard)
        while pool.has_next():
            with _original_errors():
                number, rows = pool.get_next_unordered()
            on_progress(sizes[number])
            yield number, rows


@contextmanager
def ray_engine(
    source: str,
    device: str | None,
    batch_size: int,
    workers: int,
    actors: int | None,
    address: str | None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[RayEngine]:
    """Connect to Ray and create actors that each load the model; the connection is closed at the end of the block.

    Args:
        source: See `Predictor`; every node must be able to read it.
        device: Device of each actor; None is one GPU for each if the cluster has GPUs.
        batch_size: Number of images per batch.
        workers: Number of data loading processes per actor; 0 loads in the actor.
        actors: Number of actors; None is one per GPU, or as many as the CPU cores allow.
        address: Address of a Ray cluster, or "auto"; None starts Ray on this machine.
        settings: See `LocalEngine`.

    Raises:
        MissingExtraError: Ray is not installed.
        BrickInputError: The cluster has not enough resources for the actors.
        The exceptions of `Predictor`.
    """
    ray = _load_ray()
    local_options = {"include_dashboard": False} if address is None else {}
    ray.init(address=address or "local", log_to_driver=False, logging_level="error", **local_options)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        on_gpus = device in (None, "cuda") and any(node.get("GPU", 0) >= 1 for node in nodes)
        needs = {"CPU": 1 + workers, **({"GPU": 1} if on_gpus else {})}
        capacity = sum(min(int(node.get(name, 0) // need) for name, need in needs.items()) for node in nodes)
        count = capacity if actors is None else actors
        if not 0 < count <= capacity:  # Ray would wait without limit for the resources of the others
            expected = f"from 1 to {capacity}, of {needs} each" if capacity else f"a node with {needs} for each"
            raise BrickInputError("actors", expected, f"{count}", "Use fewer workers per actor, or fewer actors.")
        restarts = {
            "max_restarts": -1,
            "max_task_retries": 3,
        }  # nodes may come and go; a shard that kills 4 actors fails
        actor_class = ray.remote(_Actor).options(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), **restarts)
        arguments = (source, device, batch_size, workers, dict(settings))
        yield RayEngine([actor_class.remote(*arguments) for _ in range(count)])
    finally:
        ray.shutdown()


@final
class _Actor:
    """A local engine in a process of Ray. It is created in the first call, so that this call raises its errors."""

    def __init__(
        self, source: str, device: str | None, batch_size: int, workers: int, settings: Mapping[str, Any]
    ) -> None:
        self._arguments = (source, device, batch_size, workers, 1, settings)

    @cached_property
    def _engine(self) -> LocalEngine:
        return LocalEngine(*self._arguments)

    def info(self) -> Mapping[str, Any]:
        return self._engine.info

    def run(self, shard: Shard) -> tuple[int, list[Row]]:
        return next(self._engine.run([shard], lambda count: None))


def _use_one_core() -> None:
    torch.set_num_threads(1)


@contextmanager
def _single_core() -> Iterator[None]:
    """Let models that are created or called in the block compute on one core."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def _result(shard: int, index: int, rows: Future[list[Row]]) -> tuple[int, int, list[Row]]:
    return shard, index, rows.result()


def _rows(batch: Batch, predictor: Predictor) -> list[Row]:
    return [
        {"file": name, "width": size and size[0], "height": size and size[1], "error": error, **results}
        for name, size, error, results in zip(
            batch.names, batch.sizes, batch.errors, predictor.results(batch), strict=True
        )
    ]


def _results(calls: list[Any]) -> list[Any]:
    """Wait for the results of actor calls."""
    with _original_errors():
        return list(_load_ray().get(calls))


@contextmanager
def _original_errors() -> Iterator[None]:
    """Raise the exception of an actor instead of Ray's exception around it."""
    try:
        yield
    except _load_ray().exceptions.RayTaskError as error:
        raise error.cause from None


def _load_ray() -> Any:
    try:
        import ray  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("The engine 'ray'", "scale") from None
    return ray
