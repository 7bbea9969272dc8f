"""The tasks there are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from brickyard.errors import UnknownNameError
from brickyard.tasks.cls import Classification
from brickyard.tasks.depth import Depth
from brickyard.tasks.det import Detection
from brickyard.tasks.emb import Embedding
from brickyard.tasks.kpt import Keypoints
from brickyard.tasks.seg import Segmentation
from brickyard.tasks.task import Task

_BUILT_IN = (Classification(), Depth(), Segmentation(), Detection(), Keypoints(), Embedding())
_TASKS: dict[str, Task] = {task.name: task for task in _BUILT_IN}
TASKS: Mapping[str, Task] = MappingProxyType(_TASKS)


def register_task(task: Task) -> Task:
    """Make a task known to model names, files and the command line.

    Raises:
        ValueError: It is a class, another task has this name, the name is no token of letters and digits, or it builds
            no heads.
    """
    if not isinstance(task, Task):
        raise ValueError(f"{task!r} is no task: give an instance of a subclass of `Task`.")
    if not (task.name.isascii() and task.name.isalnum()):
        raise ValueError(f"'{task.name}' cannot be a task's name: expected letters and digits only.")
    if not task.variants:
        raise ValueError(f"The task '{task.name}' builds no heads: give it `variants` and `bricks`.")
    for variant in task.variants:
        if not (variant.isascii() and variant.isalnum()):
            raise ValueError(f"'{variant}' cannot name a head of '{task.name}': expected letters and digits only.")
    if _TASKS.setdefault(task.name, task) is not task:
        raise ValueError(f"A task named '{task.name}' is registered already: {_TASKS[task.name]}. Choose another name.")
    return task


def get_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in _TASKS:
        raise UnknownNameError("task", name, _TASKS, "A task of your own is registered with `register_task`.")
    return _TASKS[name]


def task_variants() -> dict[str, tuple[str, ...]]:
    """The names of each task's heads, the default first."""
    return {task.name: task.variants for task in _TASKS.values()}
