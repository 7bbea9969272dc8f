"""Tasks by name; the module of a built-in task is imported when the task is first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, final

from brickyard.errors import UnknownNameError

if TYPE_CHECKING:
    from brickyard.tasks.task import Task

_BUILT_IN = {
    "cls": ("brickyard.tasks.cls", "Classification"),
    "depth": ("brickyard.tasks.depth", "Depth"),
    "seg": ("brickyard.tasks.seg", "Segmentation"),
    "det": ("brickyard.tasks.det", "Detection"),
    "inst": ("brickyard.tasks.inst", "InstanceSegmentation"),
    "pose": ("brickyard.tasks.pose", "InstanceKeypoints"),
    "kpt": ("brickyard.tasks.kpt", "Keypoints"),
    "emb": ("brickyard.tasks.emb", "Embedding"),
    "fomo": ("brickyard.tasks.fomo", "PointDetection"),
    "anomaly": ("brickyard.tasks.anomaly", "AnomalyDetection"),
    "ocr": ("brickyard.tasks.ocr", "TextRecognition"),
}
_TASKS: dict[str, Task] = {}  # registered tasks, and built-in ones that have been used


@final
class _RegisteredTasks(Mapping[str, "Task"]):
    """Every task by name, read-only: the built-in ones, then those of `register_task`."""

    def __getitem__(self, name: str) -> Task:
        if name not in _TASKS and name in _BUILT_IN:
            module, class_name = _BUILT_IN[name]
            _TASKS[name] = getattr(import_module(module), class_name)()
        return _TASKS[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*_BUILT_IN, *_TASKS]))

    def __len__(self) -> int:
        return len(_BUILT_IN.keys() | _TASKS.keys())

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN or name in _TASKS


TASKS: Mapping[str, Task] = _RegisteredTasks()


def register_task(task: Task) -> Task:
    """Register a task for model names, files and the command line.

    Args:
        task: An instance of a subclass of `Task`.

    Returns:
        The same task.

    Raises:
        ValueError: `task` is a class; another task has this name; the name or a variant is not made of letters and
            digits; the task builds no heads.
        BrickInputError: A label has no kind, see `Task.label_kinds`.
    """
    if isinstance(task, type):
        raise ValueError(f"Expected an instance of a subclass of `Task`, found the class {task!r}.")
    if not (task.name.isascii() and task.name.isalnum()):
        raise ValueError(f"'{task.name}' cannot be a task's name: expected letters and digits only.")
    if not task.variants:
        raise ValueError(f"The task '{task.name}' builds no heads: give it `variants` and `bricks`.")
    for variant in task.variants:
        if not (variant.isascii() and variant.isalnum()):
            raise ValueError(f"'{variant}' cannot name a head of '{task.name}': expected letters and digits only.")
        task.kinds(task.name, variant)
    if task.name in TASKS and TASKS[task.name] is not task:
        raise ValueError(f"A task named '{task.name}' is registered already: {TASKS[task.name]}. Choose another name.")
    _TASKS[task.name] = task
    return task


def get_task(name: str) -> Task:
    """Return the task of this name.

    Raises:
        UnknownNameError: No task has this name.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS, "Register tasks of other packages with `register_task`.")
    return TASKS[name]


def task_variants() -> dict[str, tuple[str, ...]]:
    """Return the names of each task's heads, the default first."""
    return {name: task.variants for name, task in TASKS.items()}
