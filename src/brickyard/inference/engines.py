"""What runs a model over many pictures: this machine, or actors of Ray (the extra `scale`)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, final

import torch

from brickyard.errors import BrickInputError, BrickMismatchError, MissingExtraError
from brickyard.inference.predictor import Predictor
from brickyard.inference.reading import Batch, ShardBatches, batches_of
from brickyard.inference.shards import Shard

Row = dict[str, Any]
Tell = Callable[[int], Any]


class Engine(ABC):
    """What runs a model over shards.

    Attributes:
        about: The model: its `source`, `heads`, `hashes`, and the `batch_size`, as JSON values.
    """

    about: Mapping[str, Any]

    @abstractmethod
    def run(self, shards: Sequence[Shard], tell: Tell) -> Iterator[tuple[int, list[Row]]]:
        """Yields each shard's number and rows, in any order.

        Args:
            shards: What to do.
            tell: Called with numbers of pictures while it goes on.
        """


@final
class LocalEngine(Engine):
    """The model in threads of this process; other processes read, decode and resize.

    Each thread computes on one core: several batches at once are faster than one that is shared out, and the results
    are the same to the last bit whatever the engine.

    Args:
        source: As for `Predictor`.
        device: As for `Predictor`.
        batch_size: Pictures at a time.
        workers: How many other processes; 0 to read in this one.
        threads: How many batches the model takes at once; None for one a CPU core, or one on a GPU.
    """

    def __init__(self, source: str, device: str | None, batch_size: int, workers: int, threads: int | None) -> None:
        with _on_one_core():
            self._predictor = predictor = Predictor(source, device=device, batch_size=batch_size)
        self._workers = workers
        self._threads = threads or ((os.cpu_count() or 1) if predictor.device == "cpu" else 1)
        self.about = {
            "source": source,
            "heads": predictor.heads,
            "hashes": predictor.hashes(),
            "batch_size": predictor.batch_size,
        }

    def run(self, shards: Sequence[Shard], tell: Tell) -> Iterator[tuple[int, list[Row]]]:
        size = self._predictor.batch_size
        left = {shard.number: batches_of(shard, size) for shard in shards}
        rows: dict[int, dict[int, list[Row]]] = {number: {} for number in left}
        batches = ShardBatches(shards, self._predictor.reader, size).loader(self._workers)
        for shard, number, found in self._in_threads(batches):
            rows[shard][number] = found
            tell(len(found))
            left[shard] -= 1
            if not left[shard]:
                yield shard, [row for _, group in sorted(rows.pop(shard).items()) for row in group]

    def _in_threads(self, batches: Iterable[tuple[int, int, Batch]]) -> Iterator[tuple[int, int, list[Row]]]:
        """The rows of each batch; never more than two for each thread are waiting."""
        waiting: deque[tuple[int, int, Future[list[Row]]]] = deque()
        with _on_one_core(), ThreadPoolExecutor(self._threads, initializer=_use_one_core) as pool:
            for shard, number, batch in batches:
                waiting.append((shard, number, pool.submit(_rows, batch, self._predictor)))
                if len(waiting) > 2 * self._threads:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())


@final
class RayEngine(Engine):
    """Actors of Ray, each with a model of its own; a shard is a task. To be opened by `ray_engine`.

    Args:
        actors: Handles of `_Actor`.

    Raises:
        BrickMismatchError: The actors have different models.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self.about, *others = _got([actor.about.remote() for actor in actors])
        if any(other != self.about for other in others):
            hint = "each builds its own: pin the revision of the source, and give it trained heads"
            raise BrickMismatchError(f"The actors have different models of {self.about['source']}", [hint])

    def run(self, shards: Sequence[Shard], tell: Tell) -> Iterator[tuple[int, list[Row]]]:
        from ray.util import ActorPool  # noqa: PLC0415

        sizes = {shard.number: len(shard) for shard in shards}
        pool = ActorPool(self._actors)
        for shard in shards:
            pool.submit(lambda actor, shard: actor.run.remote(shard), shard)
        while pool.has_next():
            with _own_errors():
                number, rows = pool.get_next_unordered()
            tell(sizes[number])
            yield number, rows


@contextmanager
def ray_engine(
    source: str, device: str | None, batch_size: int, workers: int, actors: int | None, address: str | None
) -> Iterator[RayEngine]:
    """Ray with actors that each build the model; it ends with the block.

    Args:
        source: As for `Predictor`; every machine must reach it.
        device: Where each runs; None for a GPU of its own if there are any.
        batch_size: Pictures at a time.
        workers: Processes that read pictures for each actor; 0 if it reads by itself.
        actors: How many; None for one a GPU, or as many as there are CPU cores for.
        address: Of a cluster, or "auto"; None starts Ray on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        BrickInputError: More actors than there is room for.
        Else as for `Predictor`.
    """
    ray = _load_ray()
    own = {"include_dashboard": False} if address is None else {}
    ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    try:
        machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        on_gpus = device in (None, "cuda") and any(each.get("GPU", 0) >= 1 for each in machines)
        needs = {"CPU": 1 + workers, **({"GPU": 1} if on_gpus else {})}
        room = sum(min(int(each.get(name, 0) // need) for name, need in needs.items()) for each in machines)
        count = room if actors is None else actors
        if not 0 < count <= room:  # the rest would wait for ever
            expected = f"from 1 to {room}, of {needs} each" if room else f"a machine with {needs} for each"
            raise BrickInputError("actors", expected, f"{count}", "Take fewer workers for each, or fewer actors.")
        again = {"max_restarts": -1, "max_task_retries": 3}  # machines come and go; what kills every actor does not
        made = ray.remote(_Actor).options(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), **again)
        yield RayEngine([made.remote(source, device, batch_size, workers) for _ in range(count)])
    finally:
        ray.shutdown()


@final
class _Actor:
    """A predictor in a process of Ray. It is built at the first call, so that its errors are those of that call."""

    def __init__(self, source: str, device: str | None, batch_size: int, workers: int) -> None:
        self._made_of = (source, device, batch_size, workers)

    @cached_property
    def _engine(self) -> LocalEngine:
        return LocalEngine(*self._made_of, threads=1)

    def about(self) -> Mapping[str, Any]:
        return self._engine.about

    def run(self, shard: Shard) -> tuple[int, list[Row]]:
        return next(self._engine.run([shard], lambda pictures: None))


def _use_one_core() -> None:
    torch.set_num_threads(1)


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Models that are made or called in the block compute on one core."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def _result(shard: int, number: int, rows: Future[list[Row]]) -> tuple[int, int, list[Row]]:
    return shard, number, rows.result()


def _rows(batch: Batch, predictor: Predictor) -> list[Row]:
    return [
        {"file": name, "width": size and size[0], "height": size and size[1], "error": error, **results}
        for name, size, error, results in zip(
            batch.names, batch.sizes, batch.errors, predictor.results(batch), strict=True
        )
    ]


def _got(calls: list[Any]) -> list[Any]:
    """What calls of actors return."""
    with _own_errors():
        found: list[Any] = _load_ray().get(calls)
    return found


@contextmanager
def _own_errors() -> Iterator[None]:
    """The error that an actor raised, instead of Ray's around it."""
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
