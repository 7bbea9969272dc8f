"""The warning filters of pyproject.toml: errors for what our own code brings about, shown for everything else."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.toys import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]

# A module that warns of its caller (stacklevel 2) and of itself, as a dependency does.
DEPENDENCY = """
import warnings

def of_itself(category=UserWarning):
    warnings.warn("said by the dependency", category)

def of_its_caller(category=UserWarning):
    warnings.warn("said of the caller", category, stacklevel=2)
"""
CALLER = """
import dependency

def of_itself(category=UserWarning):
    dependency.of_itself(category)

def of_its_caller(category=UserWarning):
    dependency.of_its_caller(category)
"""


CATEGORIES = ("UserWarning", "DeprecationWarning", "FutureWarning")
PASSING = {
    **{
        f"itself_{category}": f"from brickyard.caller import of_itself as call; call({category})"
        for category in CATEGORIES
    },
    "named_alike": "from brickyard_plugin.caller import of_its_caller as call; call()",
}
FAILING = {
    **{
        f"{package}_{category}": f"from {package}.caller import of_its_caller as call; call({category})"
        for package in ("brickyard", "tests")
        for category in CATEGORIES
    },
    "unclosed": "open(__file__)",
    "thread": "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
    "deletion": "type('Bad', (), {'__del__': lambda self: 1 / 0})()",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What pytest prints with the project's filters, where `brickyard`, `tests` and others call a dependency."""
    folder = tmp_path_factory.mktemp("project")
    filters = json.dumps(SETTINGS["filterwarnings"])
    (folder / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\nfilterwarnings = {filters}\n")
    (folder / "dependency.py").write_text(DEPENDENCY)
    for package in ("brickyard", "tests", "brickyard_plugin"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        (folder / package / "caller.py").write_text(CALLER)
    cases = {**PASSING, **FAILING}.items()
    (folder / "test_it.py").write_text("\n".join(f"def test_{name}():\n    {body}\n" for name, body in cases))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONW"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "test_it.py"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", PASSING)
def test_a_dependency_s_warning_fails_nothing(name, output):
    assert f"PASSED test_it.py::test_{name}\n" in output, output


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_dependency_s_warning_is_in_the_summary(category, output):
    _, _, summary = output.partition("= warnings summary =")
    assert f"{category}: said by the dependency" in summary, output


@pytest.mark.parametrize("name", FAILING)
def test_our_own_warning_fails_and_so_does_what_would_pass_unseen(name, output):
    assert re.search(rf"FAILED test_it.py::test_{name}\b", output), output
