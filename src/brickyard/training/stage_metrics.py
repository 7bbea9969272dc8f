"""Metrics apart for each stage, on one collection or on one for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import nn
from torchmetrics import MetricCollection

from brickyard.collection import BrickCollection
from brickyard.core.metrics import BrickMetrics
from brickyard.core.private_names import set_update_count
from brickyard.core.tags import Stage

_STAGES = (Stage.TRAIN, Stage.VALIDATION, Stage.TEST)


def per_stage_brick_collections(collection: BrickCollection) -> nn.ModuleDict:
    """A collection for each of training, validation and test: the modules are shared, the metrics are not.

    So that a validation in the middle of a training epoch leaves the epoch's metrics alone. The keys are stage names:
    "TRAIN", "VALIDATION" and "TEST".
    """
    return nn.ModuleDict({stage.name: BrickCollection(collection.to_dict()) for stage in _STAGES})


@final
class StageMetrics:
    """Lends one collection other metrics for each stage, so that its modules stay one set with one state.

    Args:
        collection: Its own metrics are those of training.
    """

    def __init__(self, collection: BrickCollection) -> None:
        self.bricks = {path: brick for path, brick in collection.bricks().items() if isinstance(brick, BrickMetrics)}
        own = {path: brick.metrics for path, brick in self.bricks.items()}
        self._metrics = {Stage.TRAIN: own}
        for stage in _STAGES[1:]:
            self._metrics[stage] = {path: metrics.clone() for path, metrics in own.items()}

    def __getitem__(self, stage: Stage) -> dict[str, MetricCollection]:
        """The metrics of a stage by their brick's path."""
        return self._metrics[stage]

    @contextmanager
    def using(self, stage: Stage) -> Iterator[None]:
        """Within it, the collection's bricks gather in the metrics of a stage."""
        own = self._metrics[Stage.TRAIN]
        try:
            for path, brick in self.bricks.items():
                metrics = self._metrics[stage][path]
                brick.metrics = metrics if stage is Stage.TRAIN else _sibling(metrics, own[path])
            yield
        finally:
            for path, brick in self.bricks.items():
                brick.metrics = own[path]

    def state(self, stage: Stage) -> dict[str, dict[str, Any]]:
        """What the metrics of a stage have gathered, as tensors and numbers: {path: {metric: state}}."""
        return {
            path: {
                str(name): {"states": dict(metric.metric_state), "updates": metric.update_count}
                for name, metric in metrics.items()
            }
            for path, metrics in self._metrics[stage].items()
        }

    def load_state(self, stage: Stage, state: dict[str, dict[str, Any]]) -> None:
        """Take up what `state` returned."""
        for path, gathered in state.items():
            for name, metric in self._metrics[stage][path].items():
                found = gathered[str(name)]
                for key, value in found["states"].items():
                    # Copies: metrics of one kind share a state, and each of them would add to it.
                    rows = [row.clone() for row in value] if isinstance(value, list) else value.clone()
                    setattr(metric, key, rows)
                set_update_count(metric, found["updates"])


def _sibling(metrics: MetricCollection, own: MetricCollection) -> MetricCollection:
    """Metrics that are no part of the collection, on the device of those that are."""
    device = next(iter(own.values())).device
    if next(iter(metrics.values())).device != device:
        metrics.to(device)
    return metrics
