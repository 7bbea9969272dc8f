import pytest
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError

from brickyard import BrickCollection, BrickGraphError, BrickTrainable, Tag, Task
from brickyard.tasks.attach import attach_loss, attach_metric, attach_visualizer


class Numbers(Task):
    name = "numbers"
    required_labels = ("numbers",)


def head():
    return {"head": BrickTrainable(nn.Linear(3, 1), ["embedding"], ["./numbers"])}


def values():
    return {"embedding": torch.rand(4, 3), "targets/x": torch.rand(4, 1), "image": torch.rand(4, 3, 8, 8)}


class Loss(nn.Module):
    def forward(self, predictions, target):
        error = predictions - target
        return error.square().mean(), {"absolute": error.abs().mean()}


def test_a_loss_is_summed_and_its_sub_losses_are_not():
    bricks = head()
    loss = attach_loss(Loss(), Numbers(), "x", bricks, sub_losses=["absolute"], output="error")
    model = BrickCollection({"x": {**bricks, "loss": loss}})
    outputs = model(values())
    assert list(model.extract_losses(outputs)) == ["x/error"]
    torch.testing.assert_close(
        outputs["x/error_absolute"], nn.functional.l1_loss(outputs["x/numbers"], outputs["targets/x"])
    )


def test_a_function_can_be_a_loss():
    bricks = head()

    def loss(preds, target):
        return (preds - target).abs().mean()

    model = BrickCollection({"x": {**bricks, "loss": attach_loss(loss, Numbers(), "x", bricks)}})
    outputs = model(values())
    torch.testing.assert_close(outputs["x/loss"], (outputs["x/numbers"] - outputs["targets/x"]).abs().mean())


def test_a_metric_of_torchmetrics_is_reported_under_the_head_s_prefix():
    bricks = head()
    metric = attach_metric(MeanAbsoluteError(), Numbers(), "x", bricks, tags=Tag.METRIC_INFERENCE)
    assert metric.tags == {"METRIC_INFERENCE"}
    model = BrickCollection({"x": {**bricks, "metric": metric}})
    outputs = model(values())
    expected = (outputs["x/numbers"] - outputs["targets/x"]).abs().mean()
    torch.testing.assert_close(model.summarize(reset=True), {"x/MeanAbsoluteError": expected})


def test_a_visualizer_runs_for_the_visualization_tag_only():
    bricks = head()
    brick = attach_visualizer(lambda prediction_canvas, pred: prediction_canvas * 0, Numbers(), "x", bricks)
    model = BrickCollection({"x": {**bricks, "visualization": brick}})
    assert "x/visualization" not in model(values(), tags={"MODEL"})
    outputs = model(values())
    assert not outputs["x/visualization"].any()
    assert outputs["x/target_visualization"] is None


def test_a_part_that_cannot_be_wired_is_refused_when_it_is_attached():
    with pytest.raises(BrickGraphError, match=r"Brick 'x/<lambda>'.*'mask'"):
        attach_visualizer(lambda mask: mask, Numbers(), "x", head())
