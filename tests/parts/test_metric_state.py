import copy
import pickle
from typing import Annotated

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from brickyard import BrickCollection, BrickInputError, BrickMetricSingle
from brickyard.parts.metric_state import BaseMetric, MetricState
from tests.private_names import reductions


class Counts(BaseMetric):
    default: Annotated[Tensor, MetricState()]
    values: Annotated[list[Tensor], MetricState()]
    integer: Annotated[Tensor, MetricState(default=0)]
    maximum: Annotated[Tensor, MetricState(default=torch.zeros(2), dist_reduce_fx="max", persistent=True)]
    gathered: Annotated[Tensor, MetricState(dist_reduce_fx=None)]
    other: Annotated[int, "not a state"] = 3
    plain: int = 4

    def update(self, predictions: Tensor) -> None:
        self.default += predictions.sum()
        self.maximum += 1
        self.values.append(predictions)

    def compute(self) -> tuple[Tensor, dict[str, Tensor]]:
        return self.default, {"largest": torch.cat(self.values).max()}


class MoreCounts(Counts):
    additional: Annotated[Tensor, MetricState(default=1.5)]


def test_states_have_the_defaults_of_torchmetrics_add_state_calls():
    metric = MoreCounts()
    names = ["default", "values", "integer", "maximum", "gathered", "additional"]
    assert list(metric.metric_state) == names
    assert reductions(metric)["values"] is not reductions(metric)["default"]
    expected = MoreCounts()
    for name, default, reduction in (("default", torch.tensor(0.0), "sum"), ("values", [], "cat")):
        expected.add_state(f"{name}_2", default=default, dist_reduce_fx=reduction)
        assert reductions(metric)[name] is reductions(expected)[f"{name}_2"]
    assert metric.default.dtype == torch.float32
    assert metric.default == 0
    assert metric.values == []
    assert metric.integer.dtype == torch.int64
    assert metric.additional == 1.5
    assert reductions(metric)["gathered"] is None
    assert reductions(metric)["maximum"](torch.tensor([[1, 5], [3, 2]])).tolist() == [3, 5]
    assert list(metric.state_dict()) == ["maximum"]
    assert metric.plain == 4


def test_two_metrics_share_no_state_and_reset_restores_the_defaults():
    first, second = Counts(), Counts()
    first.update(torch.tensor([2.0, 3.0]))
    assert second.values == []
    assert not second.maximum.any()
    first.reset()
    assert not first.maximum.any()
    assert first.values == []


def test_the_main_value_has_the_name_of_the_class():
    metric = Counts()
    metric.update(torch.tensor([2.0, 3.0]))
    expected = {"Counts": 5.0, "largest": 3.0}
    assert metric.compute() == expected
    assert Counts()(torch.tensor([2.0, 3.0])) == expected
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        other.update(torch.tensor([1.0]))
        assert other.compute() == {"Counts": 6.0, "largest": 3.0}
    assert MetricCollection({"mine": metric}).compute() == expected


class CountsTwice(Counts):
    def compute(self) -> tuple[Tensor, dict[str, Tensor]]:
        main, others = super().compute()
        return 2 * main, others


def test_a_subclass_gets_the_tuple_of_its_base_class():
    metric = CountsTwice()
    metric.update(torch.tensor([2.0, 3.0]))
    assert metric.compute() == {"CountsTwice": 10.0, "largest": 3.0}


def test_a_brick_reports_the_values_under_its_path():
    brick = BrickMetricSingle(Counts(), input_names={"predictions": "values"})
    model = BrickCollection({"head": {"metric": brick}})
    model({"values": torch.tensor([2.0, 3.0])})
    assert model.summarize(reset=True) == {"head/Counts": 5.0, "head/largest": 3.0}


def test_a_state_of_another_type_is_refused():
    class Wrong(BaseMetric):
        total: Annotated[int, MetricState()]

        def update(self) -> None: ...

        def compute(self) -> None: ...

    with pytest.raises(BrickInputError, match=r"Wrong\.total: expected a state of type Tensor or list"):
        Wrong()
