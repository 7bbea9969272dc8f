import pytest
import torch
from torch import nn

from brickyard import BrickInputError, create_part, register_part
from brickyard.parts import registry
from brickyard.parts.adapters import ImagePair, SubLosses


class Loss(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, value):
        return value * self.factor, {"a": value, "b": value + 1}


def test_sub_losses_follow_the_loss_in_the_declared_order():
    values = SubLosses(Loss(), ["b", "a"])(torch.tensor(3.0))
    assert [value.item() for value in values] == [6, 4, 3]


@pytest.mark.parametrize(
    ("returned", "match"),
    [
        (torch.tensor(1.0), r"a return value \(loss, \{name: sub-loss\}\), found Tensor"),
        ((torch.tensor(1.0), torch.tensor(1.0)), "a return value"),
        ((torch.tensor(1.0), {"a": 1}), r"\['a', 'b'\], found \['a'\]"),
        ((torch.tensor(1.0), {"a": 1, "b": 2, "c": 3}), r"found \['a', 'b', 'c'\]"),
    ],
)
def test_another_return_value_of_a_loss_is_refused(returned, match):
    class Other(nn.Module):
        def forward(self):
            return returned

    with pytest.raises(BrickInputError, match=match) as caught:
        SubLosses(Other(), ["a", "b"])()
    assert str(caught.value).startswith("Other: ")


def test_the_visualization_of_the_predictions_is_first():
    pair = ImagePair(lambda prediction_canvas, target_canvas: (target_canvas + 1, prediction_canvas + 2))
    prediction, target = pair(prediction_canvas=torch.zeros(2), target_canvas=torch.zeros(2))
    assert (prediction.tolist(), target.tolist()) == ([2, 2], [1, 1])


def test_a_single_visualization_is_of_the_predictions_and_canvases_are_copies():
    image = torch.zeros(2)
    prediction, target = ImagePair(lambda prediction_canvas: prediction_canvas.add_(1))(prediction_canvas=image)
    assert (prediction.tolist(), target) == ([1, 1], None)
    assert not image.any()


def test_a_wrapped_registered_part_can_be_created_again(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_part("test_loss")(Loss)
    wrapped = registry.wrapped_part("sub_losses", create_part("test_loss", factor=5.0), names=["a", "b"])
    part = registry.part_of(wrapped)
    again = create_part(part.type, **part.args)
    assert [value.item() for value in again(torch.tensor(3.0))] == [15, 3, 4]
    assert registry.part_of(again) == part
    assert registry.part_of(registry.wrapped_part("sub_losses", Loss(), names=[])) is None
