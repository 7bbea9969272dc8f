"""Bricks that update torchmetrics at each call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, distributed, nn
from torchmetrics import Metric, MetricCollection

from brickyard.core.brick import Brick, InputNames, Tags
from brickyard.core.compiling import not_compiled
from brickyard.core.distributed import is_distributed, world_size
from brickyard.core.names import join, prefix_of
from brickyard.core.tags import Tag
from brickyard.errors import BrickGraphError


class BrickMetrics(Brick):
    """A collection of metrics, updated at each call and computed by `summarize`.

    Args:
        metric_collection: A `torchmetrics.MetricCollection` or {name: metric}. A `BrickCollection` clones it for each
            brick.
        input_names: See `Brick`; passed to the metrics' `update`, detached from autograd.
        tags: See `Brick`.
        return_metrics: Compute the values of each batch as well and write them, under the names of the summary.
        group: See `Brick`.

    Raises:
        BrickGraphError: At the call, with `return_metrics`, if a metric computes a dictionary, whose names are unknown
            before.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#1450A3"}

    def __init__(
        self,
        metric_collection: MetricCollection | Mapping[str, Metric],
        input_names: InputNames,
        tags: Tags = Tag.METRIC,
        return_metrics: bool = False,
        group: Tags | None = None,
    ) -> None:
        if not isinstance(metric_collection, MetricCollection):
            metric_collection = MetricCollection(dict(metric_collection))
        output_names = [f"./{name}" for name in metric_collection] if return_metrics else []
        super().__init__(input_names, output_names, tags, group)
        self.metrics = metric_collection
        self.return_metrics = return_metrics

    @property
    def settings(self) -> dict[str, Any]:
        named = self._names_and_tags()
        return {"input_names": named["input_names"], "tags": named["tags"], "return_metrics": self.return_metrics}

    @property
    def wrapped(self) -> MetricCollection | Metric:
        return self.metrics

    @property
    def module(self) -> nn.Module:
        return self.metrics

    @property
    def module_name(self) -> str:
        return f"{list(self.metrics)}"

    @property
    def reports(self) -> list[str]:
        """The names in the summary: each metric under the prefix of the brick."""
        return [join(prefix_of(self.path), str(name)) for name in self.metrics]

    @not_compiled("torchmetrics counts updates in Python: leave the METRIC tags out for fullgraph=True")
    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            if self.return_metrics:
                return self._declared(self._reported(self._call(self._forward, named_inputs)))
            self._call(self._update, named_inputs)
        return {}

    def summarize(self, reset: bool) -> dict[str, Any]:
        """Compute every metric over the calls since the last reset, by name; empty if no process had a call."""
        metrics = list(self.metrics.values())
        called = any(metric.update_called for metric in metrics)
        if is_distributed():
            # All processes compute or none does: one that returned early would leave the others waiting.
            everywhere: list[Any] = [None] * world_size()
            distributed.all_gather_object(everywhere, [_row_kinds(metric) for metric in metrics] if called else None)
            called = any(kinds is not None for kinds in everywhere)
            _fill(metrics, [kinds for kinds in everywhere if kinds is not None])
        if not called:
            return {}
        with warnings.catch_warnings():  # raised on a process without a call if others had one
            warnings.filterwarnings("ignore", "The ``compute`` method of metric .* was called before", UserWarning)
            computed = self._reported(self.metrics.compute())
        if reset:
            self.metrics.reset()
        return computed

    def at_path(self, path: str) -> Self:
        twin = super().at_path(path)
        twin.metrics = self.metrics.clone()
        twin.metrics.reset()
        return twin

    def _update(self, *args: Any, **kwargs: Any) -> None:
        self.metrics.update(*_detached(args), **_detached(kwargs))

    def _forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        values: dict[str, Any] = self.metrics(*_detached(args), **_detached(kwargs))
        return values

    def _declared(self, values: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(values.keys() - set(self.writes))
        if unknown:
            raise BrickGraphError(
                f"Brick '{self.path}' ({self.module_name}) computed {unknown}, expected {self.output_names}: with "
                "return_metrics each metric must compute one value. Without it, `summarize` reports all values."
            )
        return values

    def _reported(self, values: Mapping[str, Any]) -> dict[str, Any]:
        # A metric that computes a dictionary reports each of its values.
        return {join(prefix_of(self.path), name): value for name, value in values.items()}


class BrickMetricSingle(BrickMetrics):
    """One metric, updated at each call and computed by `summarize`.

    Args:
        metric: The metric, which is cloned, see `BrickMetrics`.
        input_names: See `BrickMetrics`.
        metric_name: The name in the summary, by default that of the class.
        tags: See `Brick`.
        return_metrics: See `BrickMetrics`.
        group: See `Brick`.
    """

    def __init__(
        self,
        metric: Metric,
        input_names: InputNames,
        metric_name: str | None = None,
        tags: Tags = Tag.METRIC,
        return_metrics: bool = False,
        group: Tags | None = None,
    ) -> None:
        self.metric_name = metric_name or type(metric).__name__
        super().__init__({self.metric_name: metric}, input_names, tags, return_metrics, group)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "metric_name": self.metric_name}

    @property
    def wrapped(self) -> Metric:
        return self.metrics[self.metric_name]

    @property
    def module_name(self) -> str:
        return f"'{self.metric_name}'"


def _row_kinds(metric: Metric) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Return dtype and shape[1:] of each state that is a non-empty list of tensors."""
    states = metric.metric_state.items()
    return {name: (rows[0].dtype, rows[0].shape[1:]) for name, rows in states if isinstance(rows, list) and rows}


def _fill(metrics: Sequence[Metric], everywhere: Sequence[list[dict[str, tuple[torch.dtype, torch.Size]]]]) -> None:
    """Add a tensor without rows to lists that are empty on this process only, since torchmetrics gathers tensors."""
    for kinds in everywhere:
        for metric, states in zip(metrics, kinds, strict=True):
            for name, (dtype, shape) in states.items():
                rows = metric.metric_state[name]
                if isinstance(rows, list) and not rows:
                    rows.append(torch.empty((0, *shape), dtype=dtype, device=metric.device))


def _detached(value: Any) -> Any:
    """Return a value detached from autograd, also inside lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: _detached(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_detached(item) for item in value] if isinstance(value, list) else tuple(map(_detached, value))
    return value
