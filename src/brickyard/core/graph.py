"""The bricks of a collection by path, and their plans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, final

from torch import nn

from brickyard.core.brick import Brick
from brickyard.core.metrics import BrickMetrics
from brickyard.core.names import check_brick_names, is_inside, join
from brickyard.core.plan import Plan, make_plan, owners
from brickyard.errors import BrickGraphError

BrickTree = Mapping[str, Any] | nn.ModuleDict  # {name: a Brick, a BrickCollection or another such tree}

# Names of attributes of the collection's modules: a brick of such a name could not be registered as a submodule.
_RESERVED = frozenset(dir(nn.ModuleDict())) | {"bricks", "plan", "_graph", "_prefix"}


@final
class BrickGraph:
    """The bricks of a collection by path, shared by its nested collections, and the plans made so far.

    Attributes:
        bricks: The bricks by path.
        wiring: The names and tags of all bricks as text; equal wirings have equal plans.
        plans: The plans by selection.
        labels: What the collection knows about the labels that the bricks read, None before it is first needed.

    Raises:
        BrickGraphError: An invalid name, a cycle, two producers of one name, or two metrics of one name.
    """

    def __init__(self, bricks: dict[str, Brick]) -> None:
        check_brick_names(bricks)
        for path in bricks:
            reserved = _RESERVED.intersection(path.split("/"))
            if reserved:
                raise BrickGraphError(f"'{path}': a brick cannot be named {sorted(reserved)}, an attribute of modules.")
        make_plan(bricks)  # for its errors
        owners({path: brick.reports for path, brick in bricks.items() if isinstance(brick, BrickMetrics)}, "report")
        self.bricks = bricks
        self.wiring = repr([(path, brick.reads, brick.writes, sorted(brick.tags)) for path, brick in bricks.items()])
        self.plans: dict[Any, Plan] = {}
        self.labels: Any = None

    def replace(self, bricks: dict[str, Brick]) -> None:
        """Take other bricks; if they are invalid together, nothing changes."""
        valid = BrickGraph(bricks)
        self.bricks, self.wiring, self.plans, self.labels = valid.bricks, valid.wiring, valid.plans, None


def flatten(tree: BrickTree, prefix: str = "") -> dict[str, Brick]:
    """Return every brick of a nested dictionary by its path.

    Args:
        tree: Its values are bricks, collections or further dictionaries.
        prefix: The path of the tree itself, "" for the root.

    Raises:
        TypeError: A value of another type.
    """
    return dict(_flatten(tree, prefix))


def replace_inside(
    bricks: Mapping[str, Brick], prefixes: Collection[str], added: Mapping[str, Brick]
) -> dict[str, Brick]:
    """Return bricks with those at or below some prefixes replaced by others, which take their positions."""
    merged: dict[str, Brick] = {}
    for path, brick in bricks.items():
        top = next((prefix for prefix in prefixes if is_inside(path, prefix)), None)
        if top is None:
            merged[path] = brick
        else:
            merged |= {path: brick for path, brick in added.items() if is_inside(path, top)}
    return {**merged, **added}


def set_paths(bricks: dict[str, Brick]) -> dict[str, Brick]:
    """Set the path of each brick to its key, and return the dictionary."""
    for path, brick in bricks.items():
        brick.set_path(path)
    return bricks


def _flatten(tree: BrickTree, prefix: str) -> Iterator[tuple[str, Brick]]:
    for key in tree:
        path, value = join(prefix, key), tree[key]
        if isinstance(value, Brick):
            yield path, value
        elif isinstance(value, (dict, nn.ModuleDict)):
            yield from _flatten(value, path)
        else:
            raise TypeError(f"'{path}': expected a brick, a collection or a dictionary, found {type(value).__name__}.")
