"""Typed forms of torch's own decorators for functions that torch.compile must not trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def not_compiled(reason: str) -> Callable[[_Function], _Function]:
    """Decorate a function at which torch.compile breaks the graph; `fullgraph=True` raises with `reason`."""
    return cast("Callable[[_Function], _Function]", torch.compiler.disable(reason=reason))  # type: ignore[no-untyped-call]


def constant_result(function: _Function) -> _Function:
    """Decorate a function that torch.compile calls once, keeping its result until one of its arguments changes."""
    return cast("_Function", torch.compiler.assume_constant_result(function))  # type: ignore[no-untyped-call]
