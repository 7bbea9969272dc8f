"""The layers of the package and their imports, read from the source with `ast`; nothing is imported."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.toys import SOURCE, run_python

PACKAGE = SOURCE / "brickyard"
OPTIONAL = {
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pyarrow",
    "pytorch_lightning",
    "ray",
    "segmentation_models_pytorch",
    "sklearn",
    "supervision",
    "torchdata",
}

# From the lowest to the highest; a package stands for all of its modules.
FLOORS = [
    "errors",
    "core",
    "parts",
    "data",
    "tasks",
    "recipe",
    "storage",
    "stored collection",
    "importers",  # below `create`, which imports a model by its name
    "create catalog",
    "export",
    "inference",
    "page",
    "training",
    "report",
    "cli __init__",
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}


def module_name(file: Path) -> str:
    """`parts.draw` for parts/draw.py, `parts` for parts/__init__.py, `__init__` for the package's own."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def floor_of(module: str) -> int:
    return FLOOR_OF[module.partition(".")[0]]


def imported(tree: ast.AST) -> Iterator[str]:
    """Every imported module's full name, also inside functions; `from a import b` is `a.b` if that is a module."""
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


@pytest.mark.parametrize("module", FILES)
def test_imports_point_to_a_lower_floor_or_along_the_row(module):
    assert {other for other in own_imports(module) if floor_of(other) > floor_of(module)} == set()


def test_there_is_no_cycle_of_files():
    order = list(TopologicalSorter({name: own_imports(name) for name in FILES}).static_order())
    assert set(order) == set(FILES)


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("core")])
def test_core_needs_torch_and_torchmetrics_only(module):
    foreign = {name.partition(".")[0] for name in imported(TREES[module])} - {"brickyard"} - sys.stdlib_module_names
    assert foreign <= {"torch", "torchmetrics", "numpy", "PIL"}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("parts")])
def test_parts_import_no_bricks(module):
    of_core = {other for other in own_imports(module) if other.startswith("core")}
    assert of_core <= {"core.compiling", "core.conversions", "core.private_names", "core.specs"}


def test_errors_need_nothing_but_python():
    assert {name.partition(".")[0] for name in imported(TREES["errors"])} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", FILES)
def test_functions_import_only_what_is_optional_or_slow(module):
    functions = [node for node in ast.walk(TREES[module]) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {name.partition(".")[0] for function in functions for name in imported(function)}
    slow = {
        "parts.backbones": {"timm"},
        "storage.sources.uri": {"huggingface_hub", "brickyard"},  # the module of a scheme, when it is first used
        "stored": {"brickyard"},  # the module that pushes, with huggingface_hub
    }.get(module, set())
    slow |= {"brickyard", "torch"} if module.startswith("cli.") else set()  # `brickyard --help` must not load torch
    assert inside <= OPTIONAL | slow


@pytest.mark.slow
def test_a_collection_loads_neither_timm_nor_the_client_of_the_hub():
    code = (
        "import sys; from brickyard import BrickCollection; print([n for n in ('timm', 'httpx2') if n in sys.modules])"
    )
    assert run_python(code).split() == ["[]"]


def test_only_explicit_tables_and_the_command_line_import_by_name():
    by_name = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in ("import_module", "__import__")
    }
    assert by_name <= {"parts.registry", "tasks.registry", "cli.main"}  # the last imports what its user names
