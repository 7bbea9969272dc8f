import pytest
import torch

from brickyard.training.running_means import RunningMeans


def weighted(**values: tuple[float, float]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (torch.tensor(value), torch.tensor(weight)) for name, (value, weight) in values.items()}


def test_a_mean_is_weighted() -> None:
    means = RunningMeans(["a", "b"])
    means.add(weighted(a=(1.0, 3.0), b=(10.0, 1.0)))
    means.add(weighted(a=(5.0, 1.0), b=(20.0, 1.0)))
    assert {name: float(value) for name, value in means.compute().items()} == {"a": 2.0, "b": 15.0}


def test_a_name_without_values_or_weight_is_left_out() -> None:
    means = RunningMeans(["a", "b", "c"])
    assert means.compute() == {}
    means.add(weighted(a=(1.0, 1.0), c=(7.0, 0.0)))
    means.add({})
    assert set(means.compute()) == {"a"}


def test_a_reset_clears_the_sums() -> None:
    means = RunningMeans(["a"])
    means.add(weighted(a=(1.0, 1.0)))
    means.reset()
    means.add(weighted(a=(3.0, 1.0)))
    assert float(means.compute()["a"]) == 3.0


def test_many_small_values_are_added_exactly() -> None:
    means = RunningMeans(["a"])
    for _ in range(1000):
        means.add(weighted(a=(0.1, 1.0)))
    assert float(means.compute()["a"]) == pytest.approx(0.1, rel=1e-6)


def test_values_are_detached() -> None:
    means = RunningMeans(["a"])
    means.add({"a": (torch.ones((), requires_grad=True) * 2, torch.tensor(1.0))})
    assert not means.compute()["a"].requires_grad
    assert not means.state.requires_grad


def test_a_state_can_be_restored() -> None:
    first, second = RunningMeans(["a"]), RunningMeans(["a"])
    first.add(weighted(a=(1.0, 1.0)))
    second.state = first.state
    for means in (first, second):
        means.add(weighted(a=(3.0, 1.0)))
    assert first.compute() == second.compute() == {"a": torch.tensor(2.0)}
