"""Metrics whose states are declared as annotations of the class, as in luxonis-train."""

from __future__ import annotations

import copy
import inspect
from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, final, get_args, get_origin

import torch
from torch import Tensor
from torchmetrics import Metric

from brickyard.errors import BrickInputError

Reduction = Literal["sum", "mean", "cat", "min", "max"] | Callable[[Any], Any] | None


@final
@dataclass(frozen=True)
class MetricState:
    """Declare a state of a `BaseMetric`: `total: Annotated[Tensor, MetricState(default=0)]`.

    Args:
        default: The initial value: a tensor, a number (converted to a tensor) or an empty list. By default 0.0 for a
            `Tensor`, and an empty list for a `list[Tensor]`.
        dist_reduce_fx: The reduction over processes, as in `torchmetrics.Metric.add_state`; "auto" is "sum" for a
            tensor and "cat" for a list.
        persistent: Whether the state is part of the `state_dict`.
    """

    default: Tensor | float | list[Tensor] | None = None
    dist_reduce_fx: Reduction | Literal["auto"] = "auto"
    persistent: bool = False


class BaseMetric(Metric, ABC):
    """Base class of metrics that declare their states as annotations; subclasses define `update` and `compute`.

    `compute` returns a scalar, a dictionary of scalars, or a tuple (main value, {name: value}). In the last case the
    main value is reported under the name of the class.

    Args:
        **kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        BrickInputError: A state is declared with a type other than `Tensor` or `list[Tensor]`.

    Example:
        >>> class Count(BaseMetric):
        ...     images: Annotated[Tensor, MetricState(default=0)]
        ...
        ...     def update(self, predictions: Tensor) -> None:
        ...         self.images += len(predictions)
        ...
        ...     def compute(self) -> Tensor:
        ...         return self.images
        >>> metric = Count()
        >>> metric.update(torch.zeros(3, 2))
        >>> metric.compute()
        tensor(3)
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
    """Yield the name, type and `MetricState` of each annotated state, those of base classes first."""
    for base in reversed(cls.__mro__[: cls.__mro__.index(BaseMetric)]):
        for name, annotation in inspect.get_annotations(base, eval_str=True).items():
            origin: Any = get_origin(annotation)
            if origin is Annotated:
                kind, *metadata = get_args(annotation)
                yield from ((name, kind, item) for item in metadata if isinstance(item, MetricState))


def _default(metric: str, name: str, kind: Any, default: Any) -> Tensor | list[Tensor]:
    if default is None:
        if kind is not Tensor and (get_origin(kind) or kind) is not list:
            raise BrickInputError(f"{metric}.{name}", "a state of type Tensor or list[Tensor]", f"{kind}")
        return torch.tensor(0.0) if kind is Tensor else []
    if isinstance(default, (int, float)):
        return torch.tensor(default)
    value: Tensor | list[Tensor] = copy.deepcopy(default)  # `update` must not modify the default in the class
    return value
