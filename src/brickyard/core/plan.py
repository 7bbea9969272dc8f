"""Plan which bricks run for a call, in which order, and when each value can be dropped.

A plan is made once per selection of tags and outputs; a call then only iterates over its steps.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, Protocol, final

from brickyard.core.names import ALL, Reference
from brickyard.core.tags import KNOWN_TAGS
from brickyard.errors import BrickGraphError, UnknownNameError, nearest


class GraphNode(Protocol):
    """The attributes of a brick that plans depend on."""

    reads: tuple[Reference, ...]
    writes: tuple[str, ...]
    tags: frozenset[str]

    @property
    def on_request(self) -> tuple[str, ...]: ...


@final
class Step(NamedTuple):
    """Run the brick at `path`, then drop the values that no later brick reads.

    `requests` are the reads of the brick's outputs that it computes only if they are read.
    """

    path: str
    drops: tuple[str, ...]
    requests: tuple[Reference, ...] = ()


@final
@dataclass(frozen=True)
class Plan:
    """The steps of one selection, the inputs that it needs, and the outputs that it returns.

    Attributes:
        steps: The steps in the order of execution.
        required: The names of the inputs that the caller must pass.
        outputs: The names to return, None for every value.
        reads: The names of all inputs that the steps read, those that may be absent included.
    """

    steps: tuple[Step, ...]
    required: tuple[str, ...]
    outputs: tuple[str, ...] | None
    reads: frozenset[str]


def make_plan(
    bricks: Mapping[str, GraphNode],
    tags: Collection[str] | None = None,
    outputs: tuple[str, ...] | None = None,
    given: Collection[str] | None = None,
) -> Plan:
    """Plan a call.

    Args:
        bricks: The bricks by path, in declared order. They run in the topological order that is nearest to it.
        tags: Run only bricks with one of these tags, None for all.
        outputs: Run only the bricks that these values depend on and keep only these values, None for all.
        given: The names of the inputs: skip bricks that read a value which is neither among them nor written by a
            brick. None assumes that all inputs are given.

    Raises:
        UnknownNameError: A tag that is neither one of `Tag` nor that of a brick.
        BrickGraphError: Two producers of one name, a cycle, an output that no brick writes, or no brick to run.
    """
    producers = owners({path: brick.writes for path, brick in bricks.items()}, "write")
    chosen = _with_tags(bricks, tags)
    ordered = [path for path in _order(bricks, producers) if path in chosen]
    if given is not None:
        ordered = _with_inputs(bricks, ordered, given)
    if outputs is not None:
        ordered = _needed_for(bricks, ordered, outputs, producers, may_lack=given is not None)
    if bricks and not ordered:
        selection = f"tags {sorted(tags)}" if tags is not None else "the given inputs"
        selection = selection if outputs is None else f"outputs {list(outputs)}"
        raise BrickGraphError(f"No brick runs with {selection}. The bricks and their tags: {_list_tags(bricks)}.")
    written = {name for path in ordered for name in bricks[path].writes}
    reads = [read for path in ordered for read in bricks[path].reads if read.name not in written | {ALL}]
    required = sorted({read.name for read in reads if not read.optional})
    return Plan(_steps(bricks, ordered, outputs), tuple(required), outputs, frozenset(read.name for read in reads))


def owners(names: Mapping[str, Iterable[str]], verb: str) -> dict[str, str]:
    """Return the path of the brick that each name belongs to.

    Args:
        names: The names of each brick by path.
        verb: What the bricks do with the names, for the error.

    Raises:
        BrickGraphError: Two bricks have one name.
    """
    owner: dict[str, str] = {}
    for path, owned in names.items():
        for name in owned:
            if name in owner:
                who = f"Bricks '{owner[name]}' and '{path}' both {verb}"
                if owner[name] == path:
                    who = f"Brick '{path}' would twice {verb}"
                raise BrickGraphError(
                    f"{who} '{name}'. Rename one of the two, or put its brick into a "
                    f"nested dictionary, where './{name}' is relative to that."
                )
            owner[name] = path
    return owner


def _order(bricks: Mapping[str, GraphNode], producers: Mapping[str, str]) -> list[str]:
    """Return the topological order that is nearest to the declared one."""
    rank = {path: index for index, path in enumerate(bricks)}
    paths = list(bricks)
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for path, brick in bricks.items():
        sorter.add(path, *(producers[read.name] for read in brick.reads if read.name in producers))
        if any(read.name == ALL for read in brick.reads):
            sorter.add(path, *paths[: rank[path]])
    try:
        sorter.prepare()
    except CycleError as error:
        raise BrickGraphError(f"These bricks form a cycle: {' -> '.join(error.args[1])}.") from None
    ordered: list[str] = []
    ready = [(rank[path], path) for path in sorter.get_ready()]
    heapq.heapify(ready)
    while ready:
        _, path = heapq.heappop(ready)
        ordered.append(path)
        sorter.done(path)
        for follower in sorter.get_ready():
            heapq.heappush(ready, (rank[follower], follower))
    return ordered


def _with_tags(bricks: Mapping[str, GraphNode], tags: Collection[str] | None) -> set[str]:
    if tags is None:
        return set(bricks)
    known = KNOWN_TAGS.union(*(brick.tags for brick in bricks.values()))
    for tag in sorted(tags):
        if tag not in known:
            raise UnknownNameError("tag", tag, known)
    return {path for path, brick in bricks.items() if not brick.tags.isdisjoint(tags)}


def _with_inputs(bricks: Mapping[str, GraphNode], ordered: Iterable[str], given: Collection[str]) -> list[str]:
    """Return the bricks whose inputs are given, or written by bricks before them."""
    present = {*given, ALL}
    kept = []
    for path in ordered:
        reads = bricks[path].reads
        absent = [read for read in reads if read.name not in present]
        # A brick that reads only optional values, such as a sum of losses, needs at least one of them.
        if all(read.optional for read in absent) and (not reads or len(absent) < len(reads)):
            kept.append(path)
            present.update(bricks[path].writes)
    return kept


def _needed_for(
    bricks: Mapping[str, GraphNode],
    ordered: list[str],
    outputs: tuple[str, ...],
    producers: Mapping[str, str],
    may_lack: bool,
) -> list[str]:
    """Return the bricks that the outputs depend on."""
    for name in outputs:
        if name not in producers:
            raise BrickGraphError(f"No brick writes the output '{name}'. {nearest(name, producers)}")
        if producers[name] not in ordered and not may_lack:
            raise BrickGraphError(
                f"The output '{name}' is written by brick '{producers[name]}', which these tags leave out."
            )
    wanted = set(outputs)
    needed = []
    for path in reversed(ordered):
        if not wanted.isdisjoint(bricks[path].writes) or ALL in wanted:
            needed.append(path)
            wanted.update(read.name for read in bricks[path].reads)
    return needed[::-1]


def _steps(bricks: Mapping[str, GraphNode], ordered: list[str], outputs: tuple[str, ...] | None) -> tuple[Step, ...]:
    """Return each brick with the values to drop after it: they are neither read later nor returned."""
    requested = [*map(Reference, outputs or ()), *(read for path in ordered for read in bricks[path].reads)]
    requests = {
        path: tuple(read for read in requested if read.name in on_request)
        for path in ordered
        if (on_request := bricks[path].on_request)
    }
    if outputs is None:
        return tuple(Step(path, (), requests.get(path, ())) for path in ordered)
    keep = set(outputs)
    steps = []
    for path in reversed(ordered):
        reads = [read.name for read in bricks[path].reads]
        touched = dict.fromkeys([*reads, *bricks[path].writes])
        drops = () if ALL in keep else tuple(name for name in touched if name not in keep | {ALL})
        steps.append(Step(path, drops, requests.get(path, ())))
        keep.update(reads)
    return tuple(steps[::-1])


def _list_tags(bricks: Mapping[str, GraphNode]) -> str:
    return ", ".join(f"'{path}' {sorted(brick.tags)}" for path, brick in bricks.items())
