"""The public face: lazy, complete, described."""

import ast
import types

import pytest

import brickyard
from tests.toys import SOURCE, run_python

HEAVY = ("torch", "torchvision", "timm", "torchmetrics", "pytorch_lightning", "PIL", "numpy")
LOADED = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
STUB = ast.parse((SOURCE / "brickyard" / "__init__.pyi").read_text(encoding="utf-8"))


def stub_homes() -> dict[str, str]:
    """Each name that the stub re-exports, with its module."""
    return {
        str(alias.asname): f"brickyard.{node.module}"
        for node in STUB.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize(
    "code",
    [
        "import brickyard",
        "import brickyard; brickyard.BrickError; brickyard.Stage; dir(brickyard)",
        "from brickyard.cli.main import main; main(['list', '--help'], standalone_mode=False)",
        "from brickyard.cli.main import main; main(['--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(code):
    assert run_python(f"{code}\n{LOADED}", "-W", "error").splitlines()[-1] == "[]"


def test_a_name_loads_its_module_when_it_is_used():
    assert "torch" in run_python(f"import brickyard; brickyard.create_model\n{LOADED}")


def test_the_stub_names_each_export_as_it_is_named_in_its_module():
    imports = [node for node in STUB.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.asname == alias.name for node in imports for alias in node.names)


def test_all_is_every_name_and_no_name_twice():
    assert sorted(brickyard.__all__) == sorted(stub_homes())
    assert set(dir(brickyard)) >= set(brickyard.__all__)


@pytest.mark.parametrize("name", sorted(stub_homes()))
def test_every_public_name_resolves_and_has_a_docstring(name):
    value = getattr(brickyard, name)
    if isinstance(value, (type, types.FunctionType)):
        assert value.__module__ == stub_homes()[name] or name == "BrickInterface"
        assert vars(value).get("__doc__") if isinstance(value, type) else value.__doc__, f"{name} has no docstring"
    else:
        assert isinstance(value, dict)
        assert name.startswith("UNPACK_")


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attribute nonsense"):
        _ = brickyard.nonsense
