"""Metrics whose states are declared as annotations of the class."""

from __future__ import annotations

import copy
import inspect
from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, final, get_args, get_origin

import torch
from torch import Tensor
from torchmetrics import Metric

from brickyard.errors import BrickInputError

Reduction = Literal["sum", "mean", "cat", "min", "max"] | Callable[[Any], Any] | None


@final
@dataclass(frozen=True)
class MetricState:
    """Declares a state of a `BaseMetric`: `total: Annotated[Tensor, MetricState(default=0)]`.

    Args:
        default: What it is at first: a tensor, a number (which becomes one) or an empty list. By default 0.0, float32,
            for a `Tensor`, and an empty list for a `list[Tensor]`.
        dist_reduce_fx: How the states of several processes become one, as `torchmetrics.Metric.add_state` takes it;
            "auto" is "sum" for a tensor and "cat" for a list.
        persistent: Whether it is in the `state_dict`.
    """

    default: Tensor | float | list[Tensor] | None = None
    dist_reduce_fx: Reduction | Literal["auto"] = "auto"
    persistent: bool = False


class BaseMetric(Metric, ABC):
    """A torchmetrics.Metric with the states that its class declares, its `update` and its `compute`.

    `compute` returns a scalar, a dictionary of them, or a tuple (main value, {name: further value}); the main value is
    then reported under the name of the class, and each further one under its own.

    Args:
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        BrickInputError: A state that is declared for another type than `Tensor` or `list[Tensor]`.

    Example:
        >>> class Count(BaseMetric):
        ...     pictures: Annotated[Tensor, MetricState(default=0)]
        ...
        ...     def update(self, predictions: Tensor) -> None:
        ...         self.pictures += len(predictions)
        ...
        ...     def compute(self) -> Tensor:
        ...         return self.pictures
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, kind, state in _declared(type(self)):
            default = _default(type(self).__name__, name, kind, state.default)
            automatic = "cat" if isinstance(default, list) else "sum"
            reduction: Any = automatic if state.dist_reduce_fx == "auto" else state.dist_reduce_fx
            self.add_state(name, default=default, dist_reduce_fx=reduction, persistent=state.persistent)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.compute = _naming(cls.compute)  # type: ignore[method-assign]


def _naming(compute: Callable[..., Any]) -> Callable[..., Any]:
    """The method `compute` of a class, with a dictionary in place of a tuple; `super().compute()` keeps the tuple."""

    @wraps(compute)
    def named(self: Metric, *args: Any, **kwargs: Any) -> Any:
        computed = compute(self, *args, **kwargs)
        if isinstance(computed, tuple) and type(self).compute is named:
            main, others = computed
            return {type(self).__name__: main, **others}
        return computed

    return named


def _declared(cls: type) -> Iterator[tuple[str, Any, MetricState]]:
    """Every annotation with a `MetricState`, those of base classes first."""
    for base in reversed(cls.__mro__[: cls.__mro__.index(BaseMetric)]):
        for name, annotation in inspect.get_annotations(base, eval_str=True).items():
            extras = getattr(annotation, "__metadata__", ())  # of `Annotated`
            yield from ((name, get_args(annotation)[0], extra) for extra in extras if isinstance(extra, MetricState))


def _default(metric: str, name: str, kind: Any, default: Any) -> Tensor | list[Tensor]:
    if default is None:
        if kind is not Tensor and (get_origin(kind) or kind) is not list:
            raise BrickInputError(f"{metric}.{name}", "a state of type Tensor or list[Tensor]", f"{kind}")
        return torch.tensor(0.0) if kind is Tensor else []
    if isinstance(default, (int, float)):
        return torch.tensor(default)
    found: Tensor | list[Tensor] = copy.deepcopy(default)  # or the class's own would be counted in
    return found
