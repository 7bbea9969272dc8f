"""The examples in docstrings run and print what they show."""

import doctest
from importlib import import_module

import pytest

from tests.toys import SOURCE

MODULES = [
    ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    for file in sorted((SOURCE / "brickyard").rglob("*.py"))
    if ">>>" in file.read_text(encoding="utf-8")
]
MODULES.remove("brickyard.tasks.task")  # tests/tasks/test_task.py runs its example with the loss that it names


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_print_what_they_show(name):
    results = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0
    assert results.failed == 0
