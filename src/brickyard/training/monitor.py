"""The validation metric that selects the best model."""

from __future__ import annotations

from brickyard.collection import BrickCollection
from brickyard.core.metrics import BrickMetrics
from brickyard.core.names import is_inside, prefix_of
from brickyard.core.tags import Stage
from brickyard.errors import UnknownNameError
from brickyard.training.config import Mode
from brickyard.training.loss_bricks import LossBricks

_PREFIX = f"{Stage.VALIDATION.value}/"
_TOTAL = "loss"
_LOWER_IS_BETTER = ("loss", "error", "distance", "rmse", "absrel")  # in names of metrics that do not declare it


def resolve_monitor(model: BrickCollection, monitor: str, mode: Mode | None) -> tuple[str, Mode]:
    """Return the full name of a metric and whether its smallest or largest value is best.

    Args:
        model: The model whose validation computes it.
        monitor: "validation/seg/MeanIoU", or "seg/MeanIoU" for short.
        mode: "min" or "max"; None is what the metric declares (`higher_is_better` of torchmetrics), else "min" for a
            loss or an error, and "max" for others.

    Raises:
        UnknownNameError: The model has no such loss, and no metrics brick writes under this prefix.
    """
    name = monitor.removeprefix(_PREFIX)
    losses = [_TOTAL, *LossBricks(model).names]
    metrics = [brick for brick in model.bricks().values() if isinstance(brick, BrickMetrics)]
    by_name = {
        report: metric
        for brick in metrics
        for report, metric in zip(brick.reports, brick.metrics.values(), strict=True)
    }
    # A metric may compute a dictionary, whose keys are known after a validation only.
    if name not in losses and not any(is_inside(name, prefix_of(brick.path)) for brick in metrics):
        raise UnknownNameError("metric to monitor", monitor, [f"{_PREFIX}{known}" for known in [*losses, *by_name]])
    if mode is None:
        declared = by_name[name].higher_is_better if name in by_name else None
        is_lower = any(word in name.rpartition("/")[2].lower() for word in _LOWER_IS_BETTER)
        mode = "min" if (is_lower if declared is None else not declared) else "max"
    return f"{_PREFIX}{name}", mode
