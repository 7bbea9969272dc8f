from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from brickyard import BrickCollection, BrickInputError, BrickMetricSingle, BrickTrainable
from brickyard.training.ema import MovingAverage


def collection() -> BrickCollection:
    norm = nn.BatchNorm1d(2)
    return BrickCollection(
        {
            "layer": BrickTrainable(nn.Linear(2, 2), ["x"], ["y"]),
            "norm": BrickTrainable(norm, ["y"], ["z"]),
            "frozen": BrickTrainable(nn.Linear(2, 2), ["z"], ["w"]),
            "mean": BrickMetricSingle(MeanMetric(), ["w"]),
        }
    )


def at(step: int) -> SimpleNamespace:
    return SimpleNamespace(global_step=step)


def change(model: BrickCollection) -> None:
    with torch.no_grad():
        for path in ("layer", "norm"):
            for value in model[path].state_dict().values():
                value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 1)


def test_weights_and_statistics_are_averaged_with_a_decay_that_grows_from_0() -> None:
    model = collection()
    average = MovingAverage(model, decay=0.5)
    average.on_fit_start(at(0), SimpleNamespace(device="cpu"))
    expected = {}
    for step, decay in ((1, 0.0), (2, 1 - 2 ** (-2 / 3)), (3, 0.5), (4, 0.5)):
        change(model)
        average.on_train_batch_end(at(step), None, None, None, 0)
        average.on_train_batch_end(at(step), None, None, None, 1)  # another batch of the same step
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected.get(name, 0) + (1 - decay) * value
            else:
                expected[name] = value.clone()
    averaged = average.averaged.state_dict()
    assert list(averaged) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value)
    assert torch.equal(averaged["frozen.model.weight"], model["frozen"].model.weight)  # bitwise


def test_the_model_holds_the_average_in_a_validation_and_after_the_training() -> None:
    model = collection()
    average = MovingAverage(model, decay=0.9)
    average.on_fit_start(at(0), SimpleNamespace(device="cpu"))
    for step in (1, 2, 3):
        change(model)
        average.on_train_batch_end(at(step), None, None, None, 0)
    current = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = {name: value.clone() for name, value in average.averaged.state_dict().items()}
    average.on_validation_start(None, None)
    assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items())
    average.on_validation_end(None, None)
    assert all(torch.equal(value, current[name]) for name, value in model.state_dict().items())
    assert not torch.equal(current["layer.model.weight"], averaged["layer.model.weight"])
    average.on_fit_end(None, None)
    assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items())


def test_metrics_are_not_averaged() -> None:
    model = collection()
    average = MovingAverage(model, decay=0.9)
    average.on_fit_start(at(0), SimpleNamespace(device="cpu"))
    model({"x": torch.rand(3, 2)})
    average.on_train_batch_end(at(1), None, None, None, 0)
    average.on_validation_start(None, None)
    assert model["mean"].metrics["MeanMetric"].update_count == 1
    assert average.averaged["mean"].metrics["MeanMetric"].update_count == 0


def test_a_restored_average_continues_with_the_same_values() -> None:
    model = collection()
    first, second = MovingAverage(model, decay=0.9), MovingAverage(model, decay=0.9)
    first.on_fit_start(at(0), SimpleNamespace(device="cpu"))
    change(model)
    first.on_train_batch_end(at(1), None, None, None, 0)
    state = {"step": 1, "averaged": {name: value.clone() for name, value in first.state_dict()["averaged"].items()}}
    assert first.state_dict()["step"] == 1
    second.load_state_dict(state)
    second.on_fit_start(at(1), SimpleNamespace(device="cpu"))
    change(model)
    for average in (first, second):
        average.on_train_batch_end(at(2), None, None, None, 0)
    for name, value in first.averaged.state_dict().items():
        assert torch.equal(value, second.averaged.state_dict()[name])


def test_a_module_that_two_bricks_share_is_averaged_and_swapped_once() -> None:
    shared = nn.Linear(2, 2)
    model = BrickCollection(
        {"first": BrickTrainable(shared, ["x"], ["y"]), "second": BrickTrainable(shared, ["y"], ["z"])}
    )
    average = MovingAverage(model, decay=0.5)
    average.on_fit_start(at(0), SimpleNamespace(device="cpu"))
    weight = model["first"].model.weight
    values, expected = [], torch.zeros(2, 2)
    for step, decay in ((1, 0.0), (2, 1 - 2 ** (-2 / 3)), (3, 0.5)):
        with torch.no_grad():
            weight.copy_(torch.rand(2, 2))
        values.append(weight.clone())
        expected = decay * expected + (1 - decay) * values[-1]
        average.on_train_batch_end(at(step), None, None, None, 0)
    average.on_validation_start(None, None)
    torch.testing.assert_close(weight, nn.Parameter(expected))
    assert model["second"].model.weight is weight
    average.on_validation_end(None, None)
    assert torch.equal(weight, values[-1])
    assert average.averaged["first"].model.weight is average.averaged["second"].model.weight


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(BrickInputError, match=r"ema: expected a decay in \[0, 1\)"):
        MovingAverage(collection(), decay)


def test_sharded_weights_are_refused() -> None:
    with pytest.raises(BrickInputError, match="fsdp"):
        MovingAverage(collection(), 0.9).setup(None, SimpleNamespace(device_mesh=object()), "fit")
