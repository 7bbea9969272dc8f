"""The private names of dependencies that the package uses, each with the reason why no public name does the work.

`tests/test_private_names.py` fails when a dependency removes one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torchmetrics import Metric


def has_hooks(module: nn.Module) -> bool:
    """Whether `nn.Module.__call__` does more than to call `forward`.

    torch has functions that add hooks, and none that tells whether there are any.
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None  # of `module.compile()`
        or torch_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def submodules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The registry of a module's children itself, not a copy.

    `getattr(module, name)` and `get_submodule` take several times as long, which counts where a call is made of small
    modules. `add_module` refuses names that are also those of methods ("values"), and keeps a replaced child's turn.
    """
    return module._modules


def set_update_count(metric: Metric, count: int) -> None:
    """Set how often a metric was updated, for states that are loaded: `Metric.update_count` is read-only."""
    metric._update_count = count


def tensor_version(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; torch documents `_version` without a public name.

    Inference tensors have no version: 0.
    """
    return 0 if tensor.is_inference() else tensor._version


def aoti_compile_and_package(program: torch.export.ExportedProgram, path: str, metadata: dict[str, str]) -> None:
    """Compile a program with AOTInductor into the package at `path`, which ends with .pt2.

    torch documents this function and the next one as they are, in a private module.
    """
    settings = {"aot_inductor.metadata": metadata}
    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=settings)


def aoti_load_package(path: str | os.PathLike[str]) -> Callable[..., Any]:
    """Load what `aoti_compile_and_package` wrote."""
    run: Callable[..., Any] = torch._inductor.aoti_load_package(os.fspath(path))
    return run
