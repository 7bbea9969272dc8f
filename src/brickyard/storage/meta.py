"""Build stored bricks on the meta device, where tensors have shapes but no memory, before any memory is allocated.

The JSON of a brick may ask for any amount of memory. So its module is compared with the tensors in the file of its
weights first. Where every tensor of the module is among the weights, that module is used, and nothing is initialised
only to be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.core.brick import Brick
from brickyard.core.graph import set_paths
from brickyard.errors import BrickMismatchError, UnsafeBrickError
from brickyard.storage.config import make_brick
from brickyard.storage.fit import BrickInfo
from brickyard.storage.weights import uninitialised, weight_problems
from brickyard.storage.wrappers import plain_state

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # parameters, buffers, submodules, hooks
_PLAIN = frozenset([bool, int, float, str, type(None), type, FunctionType, MethodType, BuiltinFunctionType])
_MAX_BYTES = 2**28  # of the tensors of a brick that are not among its weights
_SMALL = 4096  # an argument up to which a brick without weights needs no check


def build_on_meta(bricks: Mapping[str, BrickInfo]) -> dict[str, Brick]:
    """Build stored bricks on the meta device, without memory or weights; errors as for `make_brick`."""
    return set_paths({path: brick_on_meta(info) for path, info in bricks.items()})


def brick_on_meta(info: BrickInfo) -> Brick:
    """Build a stored brick on the meta device; errors as for `make_brick`."""
    with uninitialised(), torch.device("meta"):
        return make_brick(info.config, info.file)


def build_for_weights(info: BrickInfo) -> Brick:
    """Build a stored brick whose weights are loaded next; errors as for `make_brick`."""
    with uninitialised():
        return make_brick(info.config, info.file)


@final
@dataclass(frozen=True)
class PlannedBrick:
    """A brick on the meta device.

    Attributes:
        brick: The brick.
        state: The tensors of its module by name, None if it wraps no module.
        is_whole: Whether all of its tensors are among its weights, so that it can be used once these are assigned.
    """

    brick: Brick
    state: Mapping[str, Tensor] | None
    is_whole: bool

    def problems(self, header: Mapping[str, Tensor]) -> list[str]:
        """List the reasons why a file with these tensors cannot be the weights of the brick."""
        return [] if self.state is None else weight_problems(self.state, header)


def plan_brick(info: BrickInfo) -> PlannedBrick | None:
    """Build a stored brick on the meta device and check how much memory it needs in addition to its weights.

    Returns:
        The brick; None if its part cannot be built on the meta device, or is small and has no weights.

    Raises:
        UnsafeBrickError: It needs too much memory, or its arguments are out of bounds.
        UnknownNameError: The part is not registered.
    """
    if info.weights is None and not _has_large(info.config.get("args")):
        return None
    with suppress(BrickMismatchError):  # raised again where it is built with memory, if the arguments are wrong
        brick = brick_on_meta(info)
        state = None if brick.module is None else plain_state(brick.module)
        unstored = _unstored(brick, state or {})
        size, limit = sum(tensor.nbytes for tensor in unstored), _MAX_BYTES + ((info.weights or {}).get("size") or 0)
        if size > limit:
            raise UnsafeBrickError(f"{info.file}: arguments for {size} bytes of memory, expected at most {limit}.")
        return PlannedBrick(brick, state, is_whole=not unstored)
    return None


def _unstored(brick: Brick, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the tensors that a brick holds and that are not among its weights, such as non-persistent buffers."""
    module = brick.wrapped
    if not isinstance(module, nn.Module):
        return list(_tensors_in(module))
    stored = {id(tensor) for tensor in state.values()}
    found: list[Tensor] = [tensor for tensor in (*module.parameters(), *module.buffers()) if id(tensor) not in stored]
    for each in module.modules():
        for name, value in vars(each).items():
            if name not in _OF_EVERY_MODULE and type(value) not in _PLAIN:
                found += _tensors_in(value)
    return found


def _tensors_in(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """Yield the tensors in the attribute of a module: itself, or in a collection or a plain object."""
    if isinstance(value, Tensor):
        yield value
    elif depth and type(value) not in _PLAIN and not isinstance(value, nn.Module):
        inside = value if isinstance(value, (dict, list, tuple, set, frozenset)) else getattr(value, "__dict__", ())
        for each in inside.values() if isinstance(inside, dict) else inside:
            yield from _tensors_in(each, depth - 1)


def _has_large(value: Any) -> bool:
    """Return whether arguments have a number or a list from which a part could make a large tensor."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return len(value) > _SMALL or any(map(_has_large, value))
    return isinstance(value, int | float) and value > _SMALL
