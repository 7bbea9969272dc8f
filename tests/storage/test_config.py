import json

import pytest
import torch
from torch import nn

from brickyard import (
    Brick,
    BrickCollection,
    BrickInputError,
    BrickLoss,
    BrickMetrics,
    BrickMismatchError,
    BrickModule,
    BrickNotTrainable,
    BrickPerImageVisualization,
    BrickTrainable,
    create_part,
    register_part,
)
from brickyard.parts import registry
from brickyard.storage.config import describe, make_brick


@pytest.fixture
def guard(monkeypatch):
    """A part that looks at a value and returns nothing."""

    class Guard(nn.Module):
        def __init__(self, most):
            super().__init__()
            self.most = most

        def forward(self, value):
            if value.max() > self.most:
                raise BrickInputError("guard", f"values up to {self.most}", f"{value.max()}")

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_part("guard")(Guard)
    return create_part("guard", most=2.0)


def again(brick: Brick) -> Brick:
    return make_brick(json.loads(json.dumps(describe(brick))), "brick.json")


def facts(brick: Brick):
    return type(brick), brick.input_names, brick.output_names, brick.tags, brick.loss_names, brick.metadata


@pytest.mark.parametrize(
    "kind", [BrickModule, BrickTrainable, BrickNotTrainable, BrickLoss, BrickPerImageVisualization]
)
def test_a_brick_that_writes_nothing_comes_back_from_its_json(guard, kind):
    brick = kind(guard, input_names=["image"], output_names=[], tags={"MODEL", "LOSS"})
    assert facts(again(brick)) == facts(brick)
    assert again(brick).output_names == []


def test_a_brick_that_writes_nothing_is_saved_and_runs_again(guard, tmp_path):
    brick = BrickNotTrainable(guard, input_names={"value": "image"}, output_names=[])
    BrickCollection({"guard": brick}).save_pretrained(tmp_path)
    model = BrickCollection.from_pretrained(tmp_path)
    assert model({"image": torch.ones(2)}, return_inputs=False) == {}
    with pytest.raises(BrickInputError, match=r"up to 2\.0, found 3\.0"):
        model({"image": torch.full((2,), 3.0)})


@pytest.mark.parametrize("return_metrics", [True, False])
def test_metrics_write_what_they_are_made_of(return_metrics):
    part = create_part("classification_metrics", num_classes=3)
    brick = BrickMetrics(part, input_names=["logits", "targets"], return_metrics=return_metrics)
    assert facts(again(brick)) == facts(brick)
    assert bool(again(brick).output_names) is return_metrics


def test_metrics_with_other_names_for_what_they_write_are_refused():
    brick = BrickMetrics(create_part("classification_metrics", num_classes=3), input_names=["logits", "targets"])
    with pytest.raises(BrickMismatchError, match=r"brick\.json is not as this version"):
        make_brick({**describe(brick), "outputs": ["x"]}, "brick.json")


def test_a_file_that_does_not_say_what_the_brick_writes_is_refused(guard):
    config = describe(BrickTrainable(guard, ["image"], ["y"]))
    del config["outputs"]
    with pytest.raises(BrickMismatchError, match="outputs"):
        make_brick(config, "brick.json")
