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
    nothing_said: Annotated[Tensor, MetricState()]
    kept: Annotated[list[Tensor], MetricState()]
    whole: Annotated[Tensor, MetricState(default=0)]
    most: Annotated[Tensor, MetricState(default=torch.zeros(2), dist_reduce_fx="max", persistent=True)]
    apart: Annotated[Tensor, MetricState(dist_reduce_fx=None)]
    other: Annotated[int, "no state"] = 3
    plain: int = 4

    def update(self, predictions: Tensor) -> None:
        self.nothing_said += predictions.sum()
        self.most += 1
        self.kept.append(predictions)

    def compute(self) -> tuple[Tensor, dict[str, Tensor]]:
        return self.nothing_said, {"largest": torch.cat(self.kept).max()}


class MoreCounts(Counts):
    again: Annotated[Tensor, MetricState(default=1.5)]


def test_states_have_the_defaults_of_torchmetrics_add_state_calls():
    metric = MoreCounts()
    names = ["nothing_said", "kept", "whole", "most", "apart", "again"]
    assert list(metric.metric_state) == names
    assert reductions(metric)["kept"] is not reductions(metric)["nothing_said"]
    expected = MoreCounts()
    for name, default, reduction in (("nothing_said", torch.tensor(0.0), "sum"), ("kept", [], "cat")):
        expected.add_state(f"{name}_2", default=default, dist_reduce_fx=reduction)
        assert reductions(metric)[name] is reductions(expected)[f"{name}_2"]
    assert metric.nothing_said.dtype == torch.float32
    assert metric.nothing_said == 0
    assert metric.kept == []
    assert metric.whole.dtype == torch.int64
    assert metric.again == 1.5
    assert reductions(metric)["apart"] is None
    assert reductions(metric)["most"](torch.tensor([[1, 5], [3, 2]])).tolist() == [3, 5]
    assert list(metric.state_dict()) == ["most"]
    assert metric.plain == 4


def test_two_metrics_share_no_state_and_a_reset_goes_back():
    first, second = Counts(), Counts()
    first.update(torch.tensor([2.0, 3.0]))
    assert second.kept == []
    assert not second.most.any()
    first.reset()
    assert not first.most.any()
    assert first.kept == []


def test_a_main_value_and_further_ones_are_named():
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


def test_a_brick_reports_them_under_its_place():
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
