from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from brickyard import BrickCollection, BrickInputError, BrickMismatchError, BrickNotFoundError, Stage, export_onnx
from brickyard.training.evaluation import evaluate
from tests.runs import Rectangles, small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def finding() -> BrickCollection:
    """A model that finds things although nobody trained it, with statistics of its own."""
    model = small_model("test_resnet_cls_seg_det")
    with torch.no_grad():
        for layer in model["det/head"].modules():
            if isinstance(layer, nn.Conv2d) and layer.out_channels == 3:
                layer.weight.normal_(std=0.05)
                nn.init.zeros_(layer.bias)
    model({"image": torch.rand(4, 3, 64, 64)}, tags=Stage.INFERENCE.tags)
    return model


@pytest.fixture(scope="module")
def file(finding: BrickCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(finding, path, image_size=64)
    return path


def changed(file: Path, path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    stored = onnx.load(file)
    change(stored)
    onnx.save(stored, path)
    return path


def without_outputs(*names: str) -> Callable[[onnx.ModelProto], None]:
    def change(stored: onnx.ModelProto) -> None:
        kept = [value for value in stored.graph.output if value.name not in names]
        del stored.graph.output[:]
        stored.graph.output.extend(kept)

    return change


def without_metrics(stored: onnx.ModelProto) -> None:
    next(each for each in stored.metadata_props if each.key == "brickyard.beside").value = "{}"


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


@pytest.mark.slow
def test_figures_of_an_exported_file_are_those_of_its_model(finding: BrickCollection, file: Path) -> None:
    data = Rectangles(5, {"cls": {1}, "det": {0}})
    expected = evaluate(finding, data, batch_size=2)
    assert 0 < expected["det/map_50"] < 1, "or there is nothing to compare"
    assert evaluate(file, data, batch_size=3) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_metric_without_its_values_is_left_out_of_a_files_figures_with_a_warning(file: Path, tmp_path: Path) -> None:
    cut = changed(file, tmp_path / "cut.onnx", without_outputs("det/scores", "seg/logits"))
    with pytest.warns(UserWarning, match=r"'det/metrics' reads \['det/scores'\], which the file does not give"):
        figures = evaluate(str(cut), Rectangles(2))
    assert {name.partition("/")[0] for name in figures} == {"cls", "seg"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_metrics, "it holds no metric"),
        (without_outputs("cls/logits", "seg/class_prediction", "det/boxes"), "'cls/metrics' reads"),
    ],
)
def test_a_file_that_no_metric_can_read_is_refused(
    file: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], told: str
) -> None:
    with pytest.raises(BrickMismatchError, match=told):
        evaluate(changed(file, tmp_path / "other.onnx", change), Rectangles(1))


@pytest.mark.slow
def test_data_that_a_file_is_not_for_is_refused(file: Path) -> None:
    data = Rectangles(3)
    data.labels = {"seg": ("a", "b")}
    with pytest.raises(BrickMismatchError, match="head 'seg': expected the 4 classes"):
        evaluate(file, data)


@pytest.mark.slow
def test_pictures_of_another_size_than_a_file_takes_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.runs.SIDE", 96)
    with pytest.raises(BrickInputError, match=r"\(batch, 3, 64, 64\), found \(2, 3, 96, 96\)"):
        evaluate(file, Rectangles(2))


def test_a_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BrickNotFoundError, match=r"model\.onnx"):
        evaluate(tmp_path / "model.onnx", Rectangles(1))
