"""Collections in torch.compile and torch.export; by backends that generate no code."""

import copy

import pytest
import torch
from torch import nn

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickModule,
    BrickNotTrainable,
    BrickPerImageVisualization,
    BrickTrainable,
    UnknownNameError,
)
from tests.toys import Half, TinyBackbone, plus, tiny_bricks, tiny_inputs


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def without_metrics() -> BrickCollection:
    bricks = tiny_bricks()
    del bricks["head"]["metrics"]
    return BrickCollection(bricks)


def assert_same(outputs, expected) -> None:
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)


class Counter:
    """A backend that runs the graph as it is and counts how often it was asked to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, _):
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"tags": "MODEL"},
        {"tags": {"MODEL", "LOSS"}},
        {"tags": frozenset({"MODEL"}), "return_inputs": False},
        {"outputs": ["head/logits"]},
        {"skip_missing": True},
        {"groups": ["MODEL"]},
    ],
    ids=lambda call: "-".join(call) or "plain",
)
def test_a_collection_is_one_graph_and_is_compiled_once(call):
    collection = without_metrics().eval()
    expected = collection(tiny_inputs(), **call)
    backend = Counter()
    compiled = torch.compile(collection, backend=backend, fullgraph=True)
    for _ in range(3):
        assert_same(compiled(tiny_inputs(), **call), expected)
    assert backend.graphs == 1


def test_a_collection_that_was_never_called_compiles_too():
    collection = without_metrics().eval()
    compiled = torch.compile(collection, backend="eager", fullgraph=True)
    assert_same(compiled(tiny_inputs()), collection(tiny_inputs()))


@pytest.mark.parametrize("call", [{"tags": "MODEL"}, {"outputs": "head/logits"}, {"skip_missing": True}], ids="-".join)
def test_a_selection_that_is_first_used_in_a_compiled_call_is_one_graph(call):
    collection = without_metrics().eval()
    compiled = torch.compile(collection, backend="eager", fullgraph=True)
    assert_same(compiled(tiny_inputs(), **call), collection(tiny_inputs(), **call))


@pytest.mark.parametrize(
    ("call", "error"), [({"outputs": "nope"}, BrickGraphError), ({"tags": "NOPE"}, UnknownNameError)], ids=str
)
def test_an_invalid_selection_raises_the_same_error_in_a_compiled_call(call, error):
    compiled = torch.compile(without_metrics().eval(), backend="eager")
    with pytest.raises(error, match=r"(?i)nope"):
        compiled(tiny_inputs(), **call)


@pytest.mark.parametrize("kind", ["metrics", "visualization"])
def test_bricks_that_break_the_graph_say_which_tags_to_leave_out(kind):
    bricks = tiny_bricks()
    if kind == "visualization":
        del bricks["head"]["metrics"]
        bricks["drawn"] = BrickPerImageVisualization(lambda image: float(image.sum()), ["raw"], ["drawn"])
    compiled = torch.compile(BrickCollection(bricks).eval(), backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=r"leave the (METRIC|VISUALIZATION) tags? out"):
        compiled(tiny_inputs())


def test_plans_of_ever_new_outputs_are_bounded():
    collection = without_metrics()
    for index in range(1000):
        collection({**tiny_inputs(), f"more_{index}": index}, skip_missing=True)
    assert len(collection._graph.plans) <= 256


def test_a_call_in_between_compiles_nothing_again():
    collection, backend = without_metrics().eval(), Counter()
    compiled = torch.compile(collection, backend=backend, fullgraph=True)
    compiled(tiny_inputs(), tags="MODEL")
    collection(tiny_inputs())
    collection(tiny_inputs(), outputs=["features"])
    compiled(tiny_inputs(), tags="MODEL")
    assert backend.graphs == 1


def test_lists_indices_optional_names_and_keywords_are_one_graph_too():
    collection = BrickCollection(
        {
            "backbone": BrickModule(lambda x: [x, x + 1, x + 2], ["x"], ["features"]),
            "head": BrickModule(
                lambda last, rest, mask: {"sum": last + rest[0], "seen": last if mask is None else mask},
                {"last": "features[-1]", "rest": "features[1:3]", "mask": "mask?"},
                ["./sum", "./seen"],
            ),
            "all": BrickModule(lambda values: values["x"] + values["sum"], ["__all__"], ["total"]),
            "still": BrickNotTrainable(nn.Linear(2, 2), ["total"], ["out"], calculate_gradients=False),
        }
    )
    x = {"x": torch.rand(3, 2)}
    expected = collection(x)
    outputs = torch.compile(collection, backend="eager", fullgraph=True)(x)
    assert list(outputs) == list(expected)
    torch.testing.assert_close(outputs["out"], expected["out"])
    assert not outputs["out"].requires_grad


@pytest.mark.slow
def test_gradients_through_a_compiled_collection_are_those_without():
    collection = without_metrics()
    other = copy.deepcopy(collection)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    for model, call in ((collection, collection), (other, compiled)):
        sum(model.extract_losses(call(tiny_inputs())).values()).backward()
    for left, right in zip(collection.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)
    torch.testing.assert_close(
        collection["backbone"].model.norm.running_mean, other["backbone"].model.norm.running_mean
    )


def test_metrics_and_pictures_compile_with_graph_breaks():
    bricks = tiny_bricks()
    bricks["visualization"] = BrickPerImageVisualization(lambda image: float(image.sum()), ["raw"], ["visualization"])
    collection = BrickCollection(bricks).eval()
    expected = collection(tiny_inputs())
    summary = collection.summarize(reset=True)
    compiled = torch.compile(collection, backend="eager")
    outputs = compiled(tiny_inputs())
    assert outputs.pop("visualization") == expected.pop("visualization")
    assert_same(outputs, expected)
    for name, value in compiled.summarize(reset=True).items():
        torch.testing.assert_close(value, summary[name])


def test_a_changed_collection_is_compiled_anew():
    collection = BrickCollection({"a": plus(1, ["x"], ["y"])})
    compiled = torch.compile(collection, backend="eager", fullgraph=True)
    assert compiled({"x": torch.zeros(1)})["y"] == 1
    collection["a"] = plus(5, ["x"], ["y"])
    assert compiled({"x": torch.zeros(1)})["y"] == 5
    collection["b"] = plus(1, ["y"], ["z"])
    assert compiled({"x": torch.zeros(1)})["z"] == 6


def exportable() -> BrickCollection:
    return BrickCollection(
        {
            "preprocessor": BrickNotTrainable(Half(), ["raw"], ["processed"]),
            "backbone": BrickTrainable(TinyBackbone(), ["processed"], ["features"]),
            "head": {"pool": BrickModule(lambda features: features.mean((2, 3)), ["features"], ["./pooled"])},
        }
    ).eval()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "call", [{"tags": "MODEL", "return_inputs": False}, {"outputs": ["head/pooled"]}], ids="-".join
)
def test_a_collection_is_exported_as_it_is_with_a_dynamic_batch(strict, call):
    collection = exportable()
    raw = {"raw": torch.rand(2, 3, 8, 8)}
    shapes = {"named_inputs": {"raw": {0: torch.export.Dim("batch")}}, **dict.fromkeys(call)}
    if "outputs" in call:
        shapes["outputs"] = [None]
    program = torch.export.export(collection, (raw,), call, dynamic_shapes=shapes, strict=strict)
    other = {"raw": torch.rand(5, 3, 8, 8)}
    assert_same(program.module()(other, **call), collection(other, **call))


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_nested_collection_has_the_weights_under_their_paths(strict):
    program = torch.export.export(exportable(), ({"raw": torch.rand(2, 3, 8, 8)},), strict=strict)
    assert "backbone.model.conv.weight" in program.state_dict
