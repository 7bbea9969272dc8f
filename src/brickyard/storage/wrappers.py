"""Modules in the wrappers of `torch.compile` and of data parallelism, which add a prefix to the names of tensors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

_COMPILED = "_orig_mod"  # the submodule of what `torch.compile(module)` returns
_PARALLEL = "module"  # the submodule of torch's parallel wrappers


def unwrapped(module: Any) -> Any:
    """Return the module inside of wrappers, or the object itself."""
    while (inner := _inner(module)) is not None:
        module = getattr(module, inner)
    return module


def plain_names(module: nn.Module) -> dict[str, str]:
    """Return the names of a module's state, each with the one that it has without wrappers."""
    return _without_wrappers(module, module.state_dict(keep_vars=True))


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own tensors, not detached copies, by their names without wrappers."""
    state = module.state_dict(keep_vars=True)
    return {plain: state[name] for name, plain in _without_wrappers(module, state).items()}


def _without_wrappers(module: nn.Module, names: Collection[str]) -> dict[str, str]:
    plain = {name: name for name in names}
    if not any(f"{inner}." in name for name in names for inner in (_COMPILED, _PARALLEL)):
        return plain
    wrappers = {path: _inner(each) for path, each in module.named_modules(remove_duplicate=False)}
    found = [f"{path}.{inner}.".lstrip(".") for path, inner in wrappers.items() if inner is not None]
    for prefix in sorted(found, key=len, reverse=True):  # the innermost first: the others still have their prefixes
        start = prefix[: prefix[:-1].rfind(".") + 1]
        plain = {
            name: start + shorter.removeprefix(prefix) if shorter.startswith(prefix) else shorter
            for name, shorter in plain.items()
        }
    return plain


def _inner(module: Any) -> str | None:
    """Return the name of the submodule that a wrapper holds, None for any other object."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return _PARALLEL
    return _COMPILED if isinstance(module, nn.Module) and _COMPILED in dict(module.named_children()) else None
