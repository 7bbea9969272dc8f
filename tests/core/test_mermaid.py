"""The graphs are the seeds' own (TorchBricks 0.3 and 0.4); `tests/data` has their texts, character by character."""

from pathlib import Path

import pytest
import torchvision
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from brickyard import (
    BackboneResnet,
    BrickCollection,
    BrickLoss,
    BrickMetricSingle,
    BrickNotTrainable,
    BrickTrainable,
    ImageClassifier,
    Preprocessor,
    create_mermaid_dag_graph,
)
from tests.toys import identity, run_python

DATA = Path(__file__).parents[1] / "data"


class PreprocessorDummy(nn.Identity):
    pass


class TinyModel(nn.Identity):
    pass


class ClassifierDummy(nn.Identity):
    pass


def seed_model(with_loss: bool) -> BrickCollection:
    bricks = {
        "preprocessor": BrickNotTrainable(PreprocessorDummy(), ["raw_images"], ["processed"]),
        "backbone": BrickTrainable(TinyModel(), ["processed"], ["embedding"]),
        "head": BrickTrainable(ClassifierDummy(), ["embedding"], ["logits", "softmaxed"]),
        "loss": BrickLoss(nn.CrossEntropyLoss(), ["logits", "targets"], ["loss_ce"]),
    }
    collection = BrickCollection(bricks)
    return collection if with_loss else collection.sub_collection(tags={"MODEL"})


def head(num_classes: int, targets: str):
    return {
        "classify": BrickTrainable(
            ImageClassifier(num_classes, 512), ["features"], ["./logits", "./probabilities", "./class_prediction"]
        ),
        "accuracy": BrickMetricSingle(MulticlassAccuracy(num_classes), ["./class_prediction", targets]),
        "loss": BrickLoss(nn.CrossEntropyLoss(), ["./logits", targets], ["./loss_ce"]),
    }


@pytest.mark.parametrize(("with_loss", "file"), [(False, "seed_model.mmd"), (True, "seed_model_with_loss.mmd")])
def test_the_seeds_model_is_drawn_as_in_the_seed(with_loss, file):
    assert create_mermaid_dag_graph(seed_model(with_loss)) == (DATA / file).read_text()


def test_the_seeds_two_heads_are_drawn_as_in_the_seed():
    collection = BrickCollection(
        {
            "preprocessor": BrickNotTrainable(Preprocessor(), ["raw"], ["normalized"]),
            "backbone": BrickTrainable(BackboneResnet(torchvision.models.resnet18()), ["normalized"], ["features"]),
            "head0": head(3, "targets0"),
            "head1": head(5, "targets1"),
        }
    )
    assert create_mermaid_dag_graph(collection) == (DATA / "seed_two_heads.mmd").read_text()


def test_the_legend_can_be_left_out():
    graph = create_mermaid_dag_graph(seed_model(with_loss=True), add_legends=False)
    expected, _, legend = (DATA / "seed_model_with_loss.mmd").read_text().partition("\n    \n    %% Add legends")
    assert legend
    assert graph == expected


def test_places_in_places_are_subgraphs_in_subgraphs():
    collection = BrickCollection({"a": {"b": {"c": identity(["x"], ["./y"])}, "d": identity(["a/b/y"], ["./z"])}})
    lines = create_mermaid_dag_graph(collection).splitlines()
    start = lines.index("    %% Draw nodes and edges") + 1
    assert lines[start : start + 6] == [
        "    subgraph a",
        "        subgraph b",
        "            a/b/c --> |a/b/y| a/d",
        "        end",
        "        a/d --> a/z:::output",
        "    end",
    ]


def test_a_value_read_twice_by_one_brick_is_one_edge():
    collection = BrickCollection(
        {"a": identity(["x[0]", "x[1]"], ["y", "z"]), "b": identity(["y[0]", "y[-1]"], ["p", "q"])}
    )
    graph = create_mermaid_dag_graph(collection)
    assert graph.count("x:::input --> a\n") == 1
    assert graph.count("a --> |y| b\n") == 1


@pytest.mark.slow
def test_graphs_and_printed_bricks_are_the_same_under_any_hash_seed():
    code = """
from brickyard import BrickCollection, create_mermaid_dag_graph
from tests.toys import identity
bricks = {f"b{i}": identity([f"x{i}", "p"], [f"y{i}", f"v{i}"], tags={"a", "b", "c", "d"}) for i in range(5)}
collection = BrickCollection(bricks)
print(collection)
print(create_mermaid_dag_graph(collection))
"""
    first, second = (run_python(code, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert "tags={'a', 'b', 'c', 'd'}" in first
    assert first == second
