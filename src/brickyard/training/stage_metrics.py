"""Separate metrics for each stage, on one collection or on one collection per stage."""

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
    """Create a collection for each of training, validation and test, with shared modules and separate metrics.

    A validation in the middle of a training epoch then leaves the metrics of the epoch unchanged.

    Returns:
        Collections by the name of their stage: "TRAIN", "VALIDATION" and "TEST".
    """
    return nn.ModuleDict({stage.name: BrickCollection(collection.to_dict()) for stage in _STAGES})


@final
class StageMetrics:
    """Swap the metrics of one collection for each stage; its modules and their state stay the same.

    Args:
        collection: The collection. Its metrics are those of the training stage.
    """

    def __init__(self, collection: BrickCollection) -> None:
        self.bricks = {path: brick for path, brick in collection.bricks().items() if isinstance(brick, BrickMetrics)}
        original = {path: brick.metrics for path, brick in self.bricks.items()}
        self._metrics = {Stage.TRAIN: original}
        for stage in _STAGES[1:]:
            self._metrics[stage] = {path: metrics.clone() for path, metrics in original.items()}

    def __getitem__(self, stage: Stage) -> dict[str, MetricCollection]:
        """Return the metrics of a stage by the path of their brick."""
        return self._metrics[stage]

    @contextmanager
    def using(self, stage: Stage) -> Iterator[None]:
        """Let the bricks of the collection update and compute the metrics of a stage, within the block."""
        original = self._metrics[Stage.TRAIN]
        try:
            for path, brick in self.bricks.items():
                metrics = self._metrics[stage][path]
                brick.metrics = metrics if stage is Stage.TRAIN else _on_same_device(metrics, original[path])
            yield
        finally:
            for path, brick in self.bricks.items():
                brick.metrics = original[path]

    def state(self, stage: Stage) -> dict[str, dict[str, Any]]:
        """Return the accumulated state of the metrics of a stage, as tensors and numbers: {path: {metric: state}}."""
        return {
            path: {
                str(name): {"states": dict(metric.metric_state), "updates": metric.update_count}
                for name, metric in metrics.items()
            }
            for path, metrics in self._metrics[stage].items()
        }

    def load_state(self, stage: Stage, state: dict[str, dict[str, Any]]) -> None:
        """Restore a state that `state` returned."""
        for path, states in state.items():
            for name, metric in self._metrics[stage][path].items():
                stored = states[str(name)]
                for key, value in stored["states"].items():
                    # Copies: metrics of one compute group share a state, and each of them would add to it.
                    rows = [row.clone() for row in value] if isinstance(value, list) else value.clone()
                    setattr(metric, key, rows)
                set_update_count(metric, stored["updates"])


def _on_same_device(metrics: MetricCollection, reference: MetricCollection) -> MetricCollection:
    """Move metrics to the device of others: those that are not in the collection do not follow its `to`."""
    device = next(iter(reference.values())).device
    if next(iter(metrics.values())).device != device:
        metrics.to(device)
    return metrics
