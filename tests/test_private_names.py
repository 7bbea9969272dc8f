"""The private names of dependencies: each that is used does what it is used for, and all stand in one place."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from brickyard.core import private_names as ours
from tests import private_names as theirs
from tests.toys import ROOT, SOURCE

FILES = sorted(
    file.relative_to(ROOT)
    for folder in (SOURCE / "brickyard", ROOT / "tests", ROOT / "scripts")
    for file in folder.rglob("*.py")
    if file.name != "private_names.py"
)
OWN = {"brickyard", "tests"} | {file.stem for file in (ROOT / "scripts").glob("*.py")}


def gone(name: str, where: object = ours) -> str:
    return f"{name} is gone from this version of its package: find another way in {where.__name__}, and say it there"


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_names_in(source: str) -> list[str]:
    """The private names of dependencies that a file imports, or reads from an imported module or class."""
    tree = ast.parse(source)
    modules, found = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name: alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}": alias.asname or alias.name for alias in node.names}
        else:
            continue
        for name, local in names.items():
            if name.partition(".")[0] not in OWN | sys.stdlib_module_names:
                modules.add(local)
                found += [name] if is_private(name) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = ast.unparse(node)
            found += [root] if root.partition(".")[0] in modules else []
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_private_names_of_dependencies_stand_in_private_names(file):
    assert private_names_in((ROOT / file).read_text(encoding="utf-8")) == [], "use a public name, or private_names.py"


def test_the_search_finds_private_names():
    source = "import torch\nimport numpy as np\nfrom timm.models import _builder\ntorch._dynamo.reset()\nnp.zeros(3)"
    assert private_names_in(source) == ["timm.models._builder", "torch._dynamo"]


@pytest.mark.parametrize("name", ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"])
def test_a_module_has_dictionaries_of_hooks(name):
    assert getattr(nn.Linear(1, 1), name, None) == {}, gone(f"torch.nn.Module.{name}")


@pytest.mark.parametrize(
    "register",
    [
        nn.Module.register_forward_hook,
        nn.Module.register_forward_pre_hook,
        nn.Module.register_full_backward_hook,
        nn.Module.register_full_backward_pre_hook,
    ],
)
def test_a_hook_is_noticed(register):
    module = nn.Linear(1, 1)
    assert not ours.has_hooks(module), gone("a registry of hooks")
    handle = register(module, lambda *args: None)
    assert ours.has_hooks(module), gone("a registry of hooks")
    handle.remove()
    assert not ours.has_hooks(module)


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ],
)
def test_a_hook_on_every_module_is_noticed(register):
    handle = register(lambda *args: None)
    try:
        assert ours.has_hooks(nn.Linear(1, 1)), gone("torch.nn.modules.module._has_any_global_hook")
    finally:
        handle.remove()
    assert not ours.has_hooks(nn.Linear(1, 1))


def test_a_compiled_module_is_noticed():
    module = nn.Linear(1, 1)
    module.compile(backend="eager")
    assert ours.has_hooks(module), gone("torch.nn.Module._compiled_call_impl")


def test_the_registry_of_submodules_is_the_module_s_own():
    module = nn.ModuleDict({"a": nn.Identity()})
    registry = ours.submodules(module)
    registry["values"] = nn.Linear(1, 1)
    assert list(module.state_dict()) == ["values.weight", "values.bias"], gone("torch.nn.Module._modules")


def test_the_number_of_updates_is_set():
    metric = MeanMetric()
    ours.set_update_count(metric, 3)
    assert metric.update_count == 3, gone("torchmetrics.Metric._update_count")
    assert metric.update_called


@pytest.mark.parametrize("name", ["aoti_compile_and_package", "aoti_load_package"])
def test_aotinductor_has_its_functions(name):
    assert callable(getattr(import_module("torch._inductor"), name, None)), gone(f"torch._inductor.{name}")


def test_timm_downloads_by_the_name_that_tests_replace():
    module, _, name = theirs.TIMM_DOWNLOAD.rpartition(".")
    assert callable(getattr(import_module(module), name, None)), gone(theirs.TIMM_DOWNLOAD, theirs)


@pytest.mark.parametrize("module", theirs.RETRYING, ids=lambda module: module.__name__)
def test_the_hub_s_client_waits_by_time_sleep(module):
    assert "time.sleep(" in Path(module.__file__).read_text(encoding="utf-8"), gone(f"{module.__name__}.time", theirs)
    assert callable(module.time.sleep)


def test_a_metric_has_its_reductions():
    assert set(theirs.reductions(MeanMetric())) == {"mean_value", "weight"}, gone("Metric._reductions", theirs)


def test_dynamo_has_its_backends_as_functions():
    def double(value: torch.Tensor) -> tuple[torch.Tensor]:
        return (2 * value,)

    run = theirs.compile_aot_eager(torch.fx.symbolic_trace(double), [torch.ones(1)])
    assert run(torch.ones(1))[0] == 2


def test_the_version_of_a_tensor_counts_changes_in_place():
    tensor = torch.zeros(2)
    before = ours.tensor_version(tensor)
    tensor.add_(1)
    assert ours.tensor_version(tensor) > before, gone("torch.Tensor._version")
    with torch.inference_mode():
        assert ours.tensor_version(torch.zeros(2)) == 0
