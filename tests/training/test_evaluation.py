import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from brickyard import BrickMismatchError
from brickyard.training.evaluation import evaluate
from tests.runs import Rectangles, small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


def test_figures_are_those_of_torchmetrics_on_the_models_outputs(model) -> None:
    data = Rectangles(5, {"cls": {1}, "det": {0}})
    accuracy, iou = MulticlassAccuracy(3, average="micro"), MulticlassJaccardIndex(4, ignore_index=255)
    precision = MeanAveragePrecision(backend="faster_coco_eval")
    model.eval()
    for index in range(5):
        sample = data[index]
        with torch.no_grad():
            values = model({"image": sample["image"][None]}, tags={"MODEL", "INFERENCE"})
        if "targets/cls" in sample:
            accuracy.update(values["cls/logits"], sample["targets/cls"][None])
        iou.update(values["seg/class_prediction"], sample["targets/seg"][None])
        if "targets/det" in sample:
            there = values["det/labels"][0] >= 0
            found = {name: values[f"det/{name}"][0][there] for name in ("boxes", "scores", "labels")}
            precision.update([found], [sample["targets/det"]])
    figures = evaluate(model, data, batch_size=2)
    assert figures["cls/Accuracy"] == pytest.approx(float(accuracy.compute()))
    assert figures["seg/MeanIoU"] == pytest.approx(float(iou.compute()), abs=1e-4)
    assert figures["det/map_50"] == pytest.approx(float(precision.compute()["map_50"]), abs=1e-4)


def test_figures_are_the_same_each_time_and_the_model_stays_as_it_is(model) -> None:
    model.train()
    model({"image": torch.rand(2, 3, 64, 64), "targets/cls": torch.tensor([0, 1])}, skip_missing=True)  # gathers
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gathered = model.summarize(reset=False)
    first, second = (evaluate(model, Rectangles(6), batch_size=4) for _ in range(2))
    assert first == pytest.approx(second, abs=0, nan_ok=True)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.summarize(reset=True).keys() == gathered.keys()


def test_a_label_that_no_picture_has_is_not_measured(model) -> None:
    figures = evaluate(model, Rectangles(3, {"seg": {0, 1, 2}}))
    assert {name.partition("/")[0] for name in figures} == {"cls", "det"}


def test_data_of_another_kind_is_refused(model) -> None:
    data = Rectangles(3)
    data.labels = {"cls": ("a", "b")}
    with pytest.raises(BrickMismatchError, match="head 'cls'"):
        evaluate(model, data)
