import copy

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickLoss,
    BrickMetrics,
    BrickMetricSingle,
    BrickModule,
    BrickNotTrainable,
    BrickPerImageVisualization,
    BrickTrainable,
)
from tests.toys import TinyBackbone, plus


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def test_a_module_in_a_brick_computes_what_it_computes_alone():
    conv = nn.Conv2d(3, 4, 3)
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(BrickModule(conv, ["image"], ["out"])({"image": image})["out"], conv(image))


def test_a_brick_that_is_not_trainable_keeps_parameters_and_statistics_still_in_training():
    model = TinyBackbone()
    collection = BrickCollection({"backbone": BrickNotTrainable(model, ["x"], ["y"])}).train()
    before = state(model)
    for _ in range(3):
        output = collection({"x": torch.rand(4, 3, 8, 8)})["y"]
    assert not output.requires_grad
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_trainable_brick_moves_its_statistics_in_training_only():
    model = TinyBackbone()
    collection = BrickCollection({"backbone": BrickTrainable(model, ["x"], ["y"])})
    before = state(model)
    collection.eval()({"x": torch.rand(4, 3, 8, 8)})
    assert torch.equal(before["norm.running_mean"], model.norm.running_mean)
    collection.train()({"x": torch.rand(4, 3, 8, 8)})
    assert not torch.equal(before["norm.running_mean"], model.norm.running_mean)


def test_gradients_pass_through_a_brick_that_is_not_trainable():
    frozen = BrickNotTrainable(nn.Linear(2, 2), ["x"], ["y"])
    x = torch.ones(1, 2, requires_grad=True)
    frozen({"x": x})["y"].sum().backward()
    torch.testing.assert_close(x.grad, frozen.model.weight.sum(dim=0, keepdim=True))
    assert frozen.model.weight.grad is None


@pytest.mark.parametrize("make", [BrickModule, BrickNotTrainable])
@pytest.mark.parametrize("reads", [["x"], {"input": "x"}])
def test_without_gradients_no_graph_is_built(make, reads):
    brick = make(nn.Linear(2, 2), reads, ["y"], calculate_gradients=False)
    output = brick({"x": torch.ones(1, 2, requires_grad=True)})["y"]
    assert not output.requires_grad
    assert output.grad_fn is None


def test_a_trainable_brick_leaves_layers_that_the_caller_froze():
    model = TinyBackbone()
    model.conv.requires_grad_(False)
    collection = BrickCollection({"backbone": BrickTrainable(model, ["x"], ["y"])}).train()
    collection({"x": torch.rand(2, 3, 4, 4)})["y"].sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        "norm.weight",
        "norm.bias",
    ]
    assert model.conv.weight.grad is None
    assert model.norm.bias.grad is not None


def test_a_loss_is_summed_all_by_default():
    loss = BrickLoss(lambda x: (x, 2 * x), ["x"], ["ce", "dice"])
    assert loss.loss_names == ["ce", "dice"]
    assert loss.tags == {"LOSS"}


@pytest.mark.parametrize(
    ("losses", "expected"), [("all", ["a", "b", "c"]), ("none", []), ([], []), (["c", "a"], ["c", "a"])]
)
def test_loss_output_names_say_which_outputs_are_summed(losses, expected):
    for make in (BrickLoss, BrickTrainable, BrickModule):
        assert make(nn.Identity(), ["x"], ["a", "b", "c"], loss_output_names=losses).loss_names == expected


def test_a_loss_output_name_that_is_no_output_is_refused():
    with pytest.raises(
        BrickGraphError, match=r"One or more loss_output_names are not outputs: expected some of \['a'\], found \['x'\]"
    ):
        BrickLoss(nn.Identity(), ["x"], ["a"], loss_output_names=["x"])


def test_relative_loss_names_follow_the_place():
    loss = BrickLoss(nn.Identity(), ["x"], ["./a", "./b"], loss_output_names=["./b"])
    assert loss.at_path("head0/loss").loss_names == ["head0/b"]
    assert loss.at_path("head1/loss").loss_names == ["head1/b"]


def test_bricks_that_are_no_losses_have_none():
    assert BrickNotTrainable(nn.Identity(), ["x"], ["y"]).loss_names == []
    assert plus(1, ["x"], ["y"]).loss_names == []


def test_a_function_can_be_a_brick_and_has_no_module():
    brick = BrickNotTrainable(torch.neg, ["x"], ["y"])
    assert brick({"x": torch.ones(1)}) == {"y": -torch.ones(1)}
    assert brick.module is None
    assert brick.module_name == "neg"


def test_default_tags():
    identity = nn.Identity()
    assert BrickTrainable(identity, ["x"], ["y"]).tags == {"MODEL"}
    assert BrickNotTrainable(identity, ["x"], ["y"]).tags == {"MODEL"}
    assert BrickLoss(identity, ["x"], ["y"]).tags == {"LOSS"}
    assert BrickPerImageVisualization(print, ["x"], ["y"]).tags == {"VISUALIZATION"}
    assert BrickMetrics({}, ["x"]).tags == BrickMetricSingle(MeanMetric(), ["x"]).tags == {"METRIC"}


@pytest.mark.parametrize("in_training", [True, False])
def test_forward_hooks_on_bricks_and_on_their_modules_fire(collection, in_training):
    seen = []
    collection["backbone"].register_forward_hook(lambda _, args, output: seen.append(("brick", list(output))))
    collection["backbone"].model.register_forward_pre_hook(lambda _, args: seen.append(("module", args[0].shape)))
    collection["head/classifier"].model.fc.register_forward_hook(lambda *_: seen.append(("layer", None)))
    collection.train(in_training)({"raw": torch.rand(2, 3, 4, 4)}, tags="MODEL")
    assert seen == [("module", (2, 3, 4, 4)), ("brick", ["features"]), ("layer", None)]


def test_a_hook_that_was_on_the_brick_before_comes_along():
    seen = []
    brick = plus(1, ["x"], ["y"])
    brick.register_forward_hook(lambda *_: seen.append("fired"))
    BrickCollection({"brick": brick})({"x": torch.zeros(1)})
    assert seen == ["fired"]


@pytest.mark.parametrize(
    "brick",
    [
        BrickModule(nn.Identity(), {"input": "./x"}, ["./y"], ["B", "A"], ["./y"], False, False),
        BrickTrainable(nn.Identity(), ["./x"], ["./y", "./z"], ["./z"], "A"),
        BrickNotTrainable(nn.Identity(), ["./x"], ["./y"], "A", calculate_gradients=False),
        BrickLoss(nn.Identity(), ["./x"], ["./y", "./z"], ["./z"], "A"),
        BrickMetricSingle(MeanMetric(), ["./x"], "mean", "A", return_metrics=True),
        BrickMetrics({"mean": MeanMetric()}, ["./x"], "A", return_metrics=True),
    ],
    ids=lambda brick: type(brick).__name__,
)
def test_settings_and_what_is_wrapped_make_the_same_brick_again(brick):
    at_path = copy.deepcopy(brick).at_path("head/brick")
    again = type(brick)(at_path.wrapped, **at_path.settings)
    assert again.settings == brick.settings == at_path.settings
    assert repr(again) == repr(brick)
    assert repr(again.at_path("head/brick")) == repr(at_path)
    assert again.at_path("head/brick").loss_names == at_path.loss_names
