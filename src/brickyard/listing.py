"""The names of models."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from brickyard.errors import UnknownNameError
from brickyard.parts.backbones import TimmNames
from brickyard.storage.zoo import zoo_folders
from brickyard.tasks.registry import TASKS


def list_models(
    filter: str | Sequence[str] = "*", *, pretrained: bool = False, tasks: Sequence[str] | None = None
) -> list[str]:
    """Names that `create_model` takes.

    Args:
        filter: Wildcards as in timm, e.g. "resnet*_cls"; of several, a name must match one.
        pretrained: Only whole models with trained weights on this machine, with their weights tags.
        tasks: Only models that have all these tasks.

    Raises:
        UnknownNameError: A task that is not registered.
    """
    tasks = [tasks] if isinstance(tasks, str) else tasks
    for task in tasks or ():
        if task not in TASKS:
            raise UnknownNameError("task", task, TASKS)
    wildcards = [filter] if isinstance(filter, str) else list(filter)
    names = zoo_folders() if pretrained else _all_names()
    return [
        name
        for name in names
        if any(fnmatchcase(name, wildcard or "*") for wildcard in wildcards)
        and (not tasks or set(tasks) <= {token.partition("-")[0] for token in name.partition(".")[0].split("_")})
    ]


def _all_names() -> Iterator[str]:
    """Every backbone with every combination of tasks, but for names that can be read in two ways."""
    counts = range(1, len(TASKS) + 1)
    suffixes = ["_".join(tasks) for count in counts for tasks in itertools.combinations(TASKS, count)]
    names = Counter(f"{backbone}_{suffix}" for backbone in TimmNames() for suffix in suffixes)
    return (name for name, readings in names.items() if readings == 1)
