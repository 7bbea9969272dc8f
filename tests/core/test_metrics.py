import warnings

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from brickyard import BrickCollection, BrickGraphError, BrickMetrics, BrickMetricSingle, BrickModule

LOGITS = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1], [0.0, 0.1, 0.9]])
TARGETS = torch.tensor([0, 1, 1, 2])
BATCH = {"logits": LOGITS, "targets": TARGETS}  # three of four right


class Gather(Metric):
    """Keeps what it is given as it is."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, value, more=None):
        self.values.append(value)
        self.more = more

    def compute(self):
        return torch.cat(self.values)


def accuracy():
    return MulticlassAccuracy(num_classes=3, average="micro")


def single(**kwargs):
    return BrickMetricSingle(accuracy(), input_names=["logits", "targets"], **kwargs)


def test_at_the_root_a_metric_is_reported_under_its_plain_name():
    collection = BrickCollection({"accuracy": single()})
    assert collection(BATCH) == BATCH
    assert collection.summarize(reset=True) == {"MulticlassAccuracy": torch.tensor(0.75)}


def test_in_heads_each_metric_is_reported_under_its_place():
    head = {"accuracy": single()}
    collection = BrickCollection({"head0": head, "head1": head, "outer": {"inner": head}})
    collection(BATCH)
    assert sorted(collection.summarize(reset=True)) == [
        "head0/MulticlassAccuracy",
        "head1/MulticlassAccuracy",
        "outer/inner/MulticlassAccuracy",
    ]


def test_one_brick_in_two_places_gathers_in_two():
    brick = BrickMetricSingle(MeanMetric(), ["./value"])
    collection = BrickCollection({"a": {"mean": brick}, "b": {"mean": brick}})
    collection({"a/value": torch.tensor(1.0), "b/value": torch.tensor(5.0)})
    assert collection.summarize(reset=True) == {"a/MeanMetric": torch.tensor(1.0), "b/MeanMetric": torch.tensor(5.0)}
    assert brick.metrics["MeanMetric"].update_count == 0


def test_two_metrics_of_one_name_in_one_place_are_refused_with_both_bricks():
    with pytest.raises(BrickGraphError, match="'a' and 'b' both report 'MulticlassAccuracy'"):
        BrickCollection({"a": single(), "b": single()})


def test_a_metric_can_be_named():
    collection = BrickCollection({"head": {"a": single(metric_name="first"), "b": single(metric_name="second")}})
    collection(BATCH)
    assert list(collection.summarize(reset=True)) == ["head/first", "head/second"]


def test_a_summary_is_over_all_calls_since_the_last_reset():
    collection = BrickCollection({"accuracy": single()})
    collection(BATCH)
    collection({"logits": LOGITS[[2, 2]], "targets": TARGETS[[2, 2]]})
    assert collection.summarize(reset=False)["MulticlassAccuracy"] == torch.tensor(0.5)
    assert collection.summarize(reset=True)["MulticlassAccuracy"] == torch.tensor(0.5)
    collection(BATCH)
    assert collection.summarize(reset=True)["MulticlassAccuracy"] == torch.tensor(0.75)


def test_metrics_that_did_not_run_are_not_reported():
    collection = BrickCollection(
        {"often": single(), "rare": single(metric_name="Rare", tags="METRIC_EXTRA"), "twice": {"mean": single()}}
    )
    assert collection.summarize(reset=True) == {}
    collection(BATCH, tags="METRIC")
    assert set(collection.summarize(reset=True)) == {"MulticlassAccuracy", "twice/MulticlassAccuracy"}
    collection(BATCH, tags="METRIC_EXTRA")
    assert set(collection.summarize(reset=False)) == {"Rare"}


def test_a_collection_of_metrics_reports_each_like_torchmetrics():
    metrics = MetricCollection({"Accuracy": accuracy(), "ConfMat": MulticlassConfusionMatrix(num_classes=3)})
    collection = BrickCollection({"head": {"metrics": BrickMetrics(metrics, ["logits", "targets"])}})
    collection(BATCH)
    summary = collection.summarize(reset=True)
    metrics.update(LOGITS, TARGETS)
    expected = metrics.compute()
    assert set(summary) == {"head/Accuracy", "head/ConfMat"}
    for name, value in expected.items():
        assert torch.equal(summary[f"head/{name}"], value)


def test_a_plain_dictionary_of_metrics_will_do():
    brick = BrickMetrics(
        {"b": accuracy(), "a": MeanMetric()}, {"preds": "logits", "target": "targets", "value": "value"}
    )
    BrickCollection({"metrics": brick})({**BATCH, "value": torch.tensor(2.0)})


def test_inputs_of_a_metric_go_in_by_keyword_too():
    collection = BrickCollection({"m": BrickMetricSingle(accuracy(), {"target": "targets", "preds": "logits"})})
    collection(BATCH)
    assert collection.summarize(reset=True) == {"MulticlassAccuracy": torch.tensor(0.75)}


@pytest.mark.parametrize("place", ["", "head/"])
def test_each_batchs_values_can_be_returned_under_the_names_of_the_summary(place):
    metrics = {"Accuracy": accuracy(), "ConfMat": MulticlassConfusionMatrix(num_classes=3)}
    brick = BrickMetrics(metrics, ["logits", "targets"], return_metrics=True)
    collection = BrickCollection({f"{place}metrics": brick})
    first = collection(BATCH, return_inputs=False)
    assert set(first) == {f"{place}Accuracy", f"{place}ConfMat"}
    second = collection({"logits": LOGITS[:1], "targets": TARGETS[:1]}, return_inputs=False)
    assert (first[f"{place}Accuracy"], second[f"{place}Accuracy"]) == (torch.tensor(0.75), torch.tensor(1.0))
    assert collection.summarize(reset=True)[f"{place}Accuracy"] == torch.tensor(0.8)


def test_a_returned_metric_can_be_read_by_another_brick():
    reader = BrickModule(lambda value: value * 100, ["head/MulticlassAccuracy"], ["percent"])
    collection = BrickCollection({"percent": reader, "head": {"accuracy": single(return_metrics=True)}})
    assert collection(BATCH, outputs=["percent"]) == {"percent": torch.tensor(75.0)}


@pytest.mark.parametrize("return_metrics", [False, True])
def test_stored_inputs_hold_no_autograd_graph(return_metrics):
    gather = BrickMetricSingle(Gather(), {"value": "value", "more": "targets"}, return_metrics=return_metrics)
    collection = BrickCollection({"linear": BrickModule(nn.Linear(2, 2), ["x"], ["value"]), "gather": gather})
    targets = [{"boxes": torch.ones(1, requires_grad=True) * 2}]
    value = collection({"x": torch.ones(1, 2), "targets": targets})["value"]
    metric = collection["gather"].metrics["Gather"]
    assert value.requires_grad
    assert all(not stored.requires_grad for stored in metric.values)
    assert not collection.summarize(reset=True)["Gather"].requires_grad
    assert targets[0]["boxes"].requires_grad
    if not return_metrics:
        assert not metric.more[0]["boxes"].requires_grad


def test_a_metric_that_computes_a_dictionary_reports_each_value():
    class Two(Gather):
        def compute(self):
            return {"low": torch.cat(self.values).min(), "high": torch.cat(self.values).max()}

    collection = BrickCollection({"head": {"two": BrickMetricSingle(Two(), ["value"])}})
    collection({"value": torch.tensor([1.0, 3.0])})
    assert collection.summarize(reset=True) == {"head/low": torch.tensor(1.0), "head/high": torch.tensor(3.0)}


def test_the_callers_metric_is_left_alone():
    metric = accuracy()
    collection = BrickCollection({"accuracy": BrickMetricSingle(metric, ["logits", "targets"])})
    collection(BATCH)
    assert metric.update_count == 0
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert torch.equal(metric.compute(), torch.tensor(0.0))


def test_metrics_run_without_gradients_also_for_metrics_that_could_have_them():
    collection = BrickCollection({"mean": BrickMetricSingle(MeanMetric(), ["value"], return_metrics=True)})
    assert not collection({"value": torch.ones(1, requires_grad=True)})["MeanMetric"].requires_grad


def test_metrics_print_their_names():
    assert repr(single()) == (
        "BrickMetricSingle('MulticlassAccuracy', input_names=['logits', 'targets'], output_names=[], tags={'METRIC'})"
    )
    both = BrickMetrics({"b": accuracy(), "a": accuracy()}, ["logits", "targets"], group="METRIC")
    assert repr(both) == (
        "BrickMetrics(['a', 'b'], input_names=['logits', 'targets'], output_names=[], groups={'METRIC'})"
    )


def test_metrics_move_with_the_collection_and_keep_their_state_out_of_its_state_dict():
    collection = BrickCollection({"accuracy": single()})
    collection(BATCH)
    assert collection.to("cpu").state_dict() == {}
    assert collection.summarize(reset=True) == {"MulticlassAccuracy": torch.tensor(0.75)}


class MinAndMax(Gather):
    def compute(self):
        return {"Min": torch.cat(self.values).min(), "Max": torch.cat(self.values).max()}


def test_a_metric_of_several_values_is_summarised_but_cannot_be_written_under_its_one_name():
    batch = {"value": torch.tensor([3.0, 1.0])}
    collection = BrickCollection({"range": BrickMetricSingle(MinAndMax(), {"value": "value"})})
    collection(batch)
    assert collection.summarize(reset=True) == {"Min": torch.tensor(1.0), "Max": torch.tensor(3.0)}
    written = BrickCollection({"range": BrickMetricSingle(MinAndMax(), {"value": "value"}, return_metrics=True)})
    with pytest.raises(BrickGraphError, match=r"'range'.*computed \['Max', 'Min'\], expected \['MinAndMax'\]"):
        written(batch)
