"""What the README of TorchBricks 0.3 says otherwise than that of 0.4: `group` and `groups`."""

from pathlib import Path

import pytest
import torch
from torch import nn

from brickyard import BrickCollection, BrickLoss, BrickNotTrainable, BrickTrainable, create_mermaid_dag_graph
from tests.seeds.dummies import ClassifierDummy, PreprocessorDummy, TinyModel

DATA = Path(__file__).parents[1] / "data"
MODEL_NAMES = ["raw_images", "targets", "processed", "embedding", "logits", "softmaxed"]
PRINTED = """\
BrickCollection(
  (preprocessor): BrickNotTrainable(PreprocessorDummy, input_names=['raw_images'], output_names=['processed'], groups={'MODEL'})
  (backbone): BrickTrainable(TinyModel, input_names=['processed'], output_names=['embedding'], groups={'MODEL'})
  (head): BrickTrainable(ClassifierDummy, input_names=['embedding'], output_names=['logits', 'softmaxed'], groups={'MODEL'})
  (loss): BrickLoss(CrossEntropyLoss, input_names=['logits', 'targets'], output_names=['loss_ce'], groups={'LOSS'})
)"""  # noqa: E501


@pytest.fixture(scope="module")
def brick_collection():
    bricks = {
        "preprocessor": BrickNotTrainable(
            PreprocessorDummy(), input_names=["raw_images"], output_names=["processed"], group="MODEL"
        ),
        "backbone": BrickTrainable(
            TinyModel(n_channels=3, n_features=10), input_names=["processed"], output_names=["embedding"], group="MODEL"
        ),
        "head": BrickTrainable(
            ClassifierDummy(num_classes=3, in_features=10),
            input_names=["embedding"],
            output_names=["logits", "softmaxed"],
            group="MODEL",
        ),
        "loss": BrickLoss(
            model=nn.CrossEntropyLoss(), input_names=["logits", "targets"], output_names=["loss_ce"], group="LOSS"
        ),
    }
    return BrickCollection(bricks)


@pytest.fixture
def named_inputs():
    batch_size = 2
    return {"raw_images": torch.rand((batch_size, 3, 100, 200)), "targets": torch.ones((batch_size), dtype=torch.int64)}


def test_bricks_with_groups_print_groups(brick_collection):
    assert str(brick_collection) == PRINTED


def test_bricks_with_groups_are_drawn_alike(brick_collection):
    assert create_mermaid_dag_graph(brick_collection) == (DATA / "seed_model_with_loss.mmd").read_text()


def test_with_no_groups_specified_all_bricks_are_executed(brick_collection, named_inputs):
    named_outputs = brick_collection(named_inputs=named_inputs)
    assert list(named_outputs) == [*MODEL_NAMES, "loss_ce"]


def test_with_groups_specified_only_bricks_in_the_specified_groups_are_executed(brick_collection, named_inputs):
    named_outputs = brick_collection(named_inputs=named_inputs, groups={"MODEL"})
    assert list(named_outputs) == MODEL_NAMES


def test_several_groups_are_executed(brick_collection, named_inputs):
    named_outputs = brick_collection(named_inputs=named_inputs, groups={"MODEL", "LOSS"})
    assert list(named_outputs) == [*MODEL_NAMES, "loss_ce"]


def test_groups_and_tags_select_the_same(brick_collection, named_inputs):
    by_tags = brick_collection(named_inputs=named_inputs, tags={"LOSS", "MODEL"})
    by_groups = brick_collection(named_inputs=named_inputs, groups={"LOSS", "MODEL"})
    assert by_tags.keys() == by_groups.keys()
    assert all(torch.equal(by_tags[name], by_groups[name]) for name in by_tags)
