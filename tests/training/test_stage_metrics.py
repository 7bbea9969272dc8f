import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from brickyard import BrickCollection, BrickMetrics, BrickMetricSingle, Stage, per_stage_brick_collections
from brickyard.training.stage_metrics import StageMetrics
from tests.toys import tiny_bricks

BATCH = {"raw": torch.rand(4, 3, 8, 8), "targets": torch.tensor([0, 1, 2, 0])}


def means() -> BrickCollection:
    return BrickCollection({"mean": BrickMetricSingle(MeanMetric(), ["value"])})


def test_each_stage_has_a_collection_with_shared_modules_and_separate_metrics(collection: BrickCollection) -> None:
    stages = per_stage_brick_collections(collection)
    assert list(stages) == ["TRAIN", "VALIDATION", "TEST"]
    stages["TRAIN"](BATCH)
    assert "head/Accuracy" in stages["TRAIN"].summarize(reset=False)
    assert stages["TEST"].summarize(reset=False) == {}
    assert stages["TRAIN"]["backbone"].model is collection["backbone"].model is stages["TEST"]["backbone"].model


def test_metrics_of_stages_do_not_mix() -> None:
    collection = means()
    stages = StageMetrics(collection)
    for stage, value in ((Stage.TRAIN, 1.0), (Stage.VALIDATION, 5.0), (Stage.TRAIN, 3.0)):
        with stages.using(stage):
            collection({"value": torch.tensor(value)})
    with stages.using(Stage.VALIDATION):
        assert collection.summarize(reset=True) == {"MeanMetric": torch.tensor(5.0)}
    with stages.using(Stage.TEST):
        assert collection.summarize(reset=True) == {}
    assert collection.summarize(reset=True) == {
        "MeanMetric": torch.tensor(2.0)
    }  # the metrics of the collection are those of training


def test_the_metrics_are_restored_after_an_error() -> None:
    collection = means()
    original = collection["mean"].metrics
    stages = StageMetrics(collection)
    try:
        with stages.using(Stage.TEST):
            raise RuntimeError
    except RuntimeError:
        assert collection["mean"].metrics is original


def test_the_state_dict_does_not_change_with_the_stage(collection: BrickCollection) -> None:
    before = collection.state_dict()
    stages = StageMetrics(collection)
    with stages.using(Stage.VALIDATION):
        collection(BATCH)
        assert list(collection.state_dict()) == list(before)


def test_accumulated_states_can_be_restored() -> None:
    first, second = BrickCollection(tiny_bricks()), BrickCollection(tiny_bricks())
    second.load_state_dict(first.state_dict())
    stages, others = StageMetrics(first.eval()), StageMetrics(second.eval())
    first(BATCH)
    others.load_state(Stage.TRAIN, stages.state(Stage.TRAIN))
    more = {"raw": torch.rand(2, 3, 8, 8), "targets": torch.tensor([1, 1])}
    for collection in (first, second):
        collection(more)
    expected, actual = first.summarize(reset=True), second.summarize(reset=True)
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert torch.equal(actual[name], value)
    assert int(actual["head/ConfMat"].sum()) == 6


def test_states_shared_by_a_compute_group_can_be_restored() -> None:
    def grouped() -> BrickCollection:
        metrics = {"Accuracy": MulticlassAccuracy(3, average="macro"), "ConfMat": MulticlassConfusionMatrix(3)}
        macro = {"a": MulticlassAccuracy(3, average="macro"), "b": MulticlassAccuracy(3, average="micro"), **metrics}
        return BrickCollection({"m": BrickMetrics(macro, ["preds", "target"])})

    first, second = grouped(), grouped()
    batch = {"preds": torch.tensor([0, 1, 2, 1]), "target": torch.tensor([0, 1, 1, 1])}
    stages, others = StageMetrics(first), StageMetrics(second)
    for _ in range(3):  # after the first call the metrics of a compute group share a state
        first(batch)
    others.load_state(Stage.TRAIN, stages.state(Stage.TRAIN))
    for collection in (first, second):
        collection(batch)
    for name, value in first.summarize(reset=True).items():
        assert torch.equal(second.summarize(reset=False)[name], value)
