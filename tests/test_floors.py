"""The floors of DESIGN section 1, read from the source with `ast`; nothing is imported."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.toys import SOURCE

PACKAGE = SOURCE / "brickyard"
OPTIONAL = {"onnx", "onnxruntime", "onnxscript", "pyarrow", "pytorch_lightning", "ray", "sklearn", "torchdata"}
OF_TORCH = {"compiling", "private_names"}  # the ground floor, but for these, knows no torch
LAZY = "pretrained"  # the methods of a collection whose functions are on a floor above: imported when they are called

_FLOORS = {
    0: "errors tags names compiling private_names",
    1: """brick graph collection pretrained plan modules metrics visualization stages storage.origin storage.staging
        storage.weights parts.* data.*""",
    2: "backbone tasks.*",
    3: "recipe build",
    4: "storage.* export.* inference.* training.* create listing info card mermaid",
    5: "cli commands.* __init__",
}
FLOOR_OF = {name: floor for floor, names in _FLOORS.items() for name in names.split()}


def module_name(file: Path) -> str:
    """`parts.draw` for parts/draw.py, `parts` for parts/__init__.py, `__init__` for the package's own."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def floor_of(module: str) -> int:
    return FLOOR_OF.get(module, FLOOR_OF.get(f"{module.partition('.')[0]}.*", max(FLOOR_OF.values())))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every imported module's full name; `from a import b` is `a.b` where that is a module of the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("brickyard.") in FILES else str(node.module)


def own_imports(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    names = {name for name in imported(TREES[module]) if name.partition(".")[0] == "brickyard"}
    return {name.removeprefix("brickyard.") if name != "brickyard" else "__init__" for name in names}


def test_every_module_stands_on_a_floor():
    lost = [name for name in FILES if name not in FLOOR_OF and f"{name.partition('.')[0]}.*" not in FLOOR_OF]
    assert lost == [], "give it a floor at the top of this file, if DESIGN has one for it"


@pytest.mark.parametrize("module", [name for name in FILES if name != LAZY])
def test_imports_point_down_or_along_the_row(module):
    above = {other for other in own_imports(module) if floor_of(other) > floor_of(module)}
    assert above == set()


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("parts")])
def test_parts_import_no_brick_and_bricks_only_conversions(module):
    allowed = {other for other in own_imports(module) if other.startswith("parts") or floor_of(other) == 0}
    assert own_imports(module) == allowed


def test_bricks_know_of_parts_only_the_conversions():
    bricks = [name for name in FILES if floor_of(name) == 1 and not name.startswith(("parts", "data"))]
    seen = {other for name in bricks for other in own_imports(name) if other.startswith("parts")}
    assert seen <= {"parts.conversions"}


def test_no_circles():
    graph = {name: own_imports(name) if name != LAZY else set() for name in FILES}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(FILES)


@pytest.mark.parametrize("module", [name for name in FILES if floor_of(name) == 0 and name not in OF_TORCH])
def test_the_ground_floor_needs_nothing_but_python(module):
    foreign = {name.partition(".")[0] for name in imported(TREES[module])} - {"brickyard"} - sys.stdlib_module_names
    assert foreign == set()


@pytest.mark.parametrize("module", [name for name in FILES if name != LAZY])
def test_functions_import_only_what_is_optional(module):
    functions = [node for node in ast.walk(TREES[module]) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {name.partition(".")[0] for function in functions for name in imported(function)}
    lazy = {"brickyard", "torch"} if module.startswith("commands.") else set()  # so that --help is quick
    assert inside <= OPTIONAL | lazy


def test_only_the_lazy_face_and_the_command_line_import_by_name():
    by_name = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in ("import_module", "__import__")
    }
    assert by_name == {"__init__", "cli"}  # the latter what its user names
