"""What the nested parts of one collection share."""

from __future__ import annotations

from typing import Any, final

from torch import nn

from brickyard.core.brick import Brick
from brickyard.core.metrics import BrickMetrics
from brickyard.core.names import check_brick_names
from brickyard.core.plan import Plan, make_plan, owners
from brickyard.errors import BrickGraphError

# A brick of such a name could not be found as a submodule, or would break the module that holds it.
_RESERVED = frozenset(dir(nn.ModuleDict())) | {"bricks", "plan", "_graph", "_place"}


@final
class BrickGraph:
    """Every brick of a collection by its path, and the plans made so far.

    Raises:
        BrickGraphError: A bad name, a cycle, two producers of one name, two metrics of one name.
    """

    def __init__(self, bricks: dict[str, Brick]) -> None:
        check_brick_names(bricks)
        for path in bricks:
            reserved = _RESERVED.intersection(path.split("/"))
            if reserved:
                raise BrickGraphError(
                    f"'{path}': {sorted(reserved)} cannot name a brick, a module has attributes of that name."
                )
        make_plan(bricks)  # for its errors
        owners({path: brick.reports for path, brick in bricks.items() if isinstance(brick, BrickMetrics)}, "report")
        self.bricks = bricks
        self.wiring = repr([(path, brick.reads, brick.writes, sorted(brick.tags)) for path, brick in bricks.items()])
        self.plans: dict[Any, Plan] = {}

    def replace(self, bricks: dict[str, Brick]) -> None:
        """Take other bricks, if they are valid together."""
        valid = BrickGraph(bricks)
        self.bricks, self.wiring, self.plans = valid.bricks, valid.wiring, valid.plans
