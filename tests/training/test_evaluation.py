from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from brickyard import BrickCollection, BrickInputError, BrickMismatchError, BrickNotFoundError, Stage, export_onnx
from brickyard.training.evaluation import evaluate, input_of
from tests.runs import Rectangles, small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def detecting_model() -> BrickCollection:
    """An untrained model that outputs detections, with updated normalization statistics."""
    model = small_model("test_resnet_cls_seg_det")
    with torch.no_grad():
        for layer in model["det/head"].modules():
            if isinstance(layer, nn.Conv2d) and layer.out_channels == 3:
                layer.weight.normal_(std=0.05)
                nn.init.zeros_(layer.bias)
    model({"image": torch.rand(4, 3, 64, 64)}, tags=Stage.INFERENCE.tags)
    return model


@pytest.fixture(scope="module")
def file(detecting_model: BrickCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(detecting_model, path, image_size=64)
    return path


def changed(file: Path, path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    stored = onnx.load(file)
    change(stored)
    onnx.save(stored, path)
    return path


def without_outputs(*names: str) -> Callable[[onnx.ModelProto], None]:
    def change(stored: onnx.ModelProto) -> None:
        remaining = [value for value in stored.graph.output if value.name not in names]
        del stored.graph.output[:]
        stored.graph.output.extend(remaining)

    return change


def without_metrics(stored: onnx.ModelProto) -> None:
    next(each for each in stored.metadata_props if each.key == "brickyard.python_bricks").value = "{}"


def test_metrics_equal_torchmetrics_on_the_outputs_of_the_model(model) -> None:
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
            detected = values["det/labels"][0] >= 0
            detections = {name: values[f"det/{name}"][0][detected] for name in ("boxes", "scores", "labels")}
            precision.update([detections], [sample["targets/det"]])
    metrics = evaluate(model, data, batch_size=2)
    assert metrics["cls/Accuracy"] == pytest.approx(float(accuracy.compute()))
    assert metrics["seg/MeanIoU"] == pytest.approx(float(iou.compute()), abs=1e-4)
    assert metrics["det/map_50"] == pytest.approx(float(precision.compute()["map_50"]), abs=1e-4)


def test_metrics_are_reproducible_and_the_model_is_unchanged(model) -> None:
    model.train()
    model(
        {"image": torch.rand(2, 3, 64, 64), "targets/cls": torch.tensor([0, 1])}, skip_missing=True
    )  # updates the metrics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = model.summarize(reset=False)
    first, second = (evaluate(model, Rectangles(6), batch_size=4) for _ in range(2))
    assert first == pytest.approx(second, abs=0, nan_ok=True)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.summarize(reset=True).keys() == state.keys()


def test_images_of_another_size_than_the_heads_were_trained_on_give_a_warning(model) -> None:
    trained = BrickCollection(model.to_dict())
    trained["seg/head"].head = replace(trained["seg/head"].head, image_size=(96, 64))
    assert input_of(trained).size == (160, 160)  # the largest: the other heads have that of the backbone
    with pytest.warns(UserWarning, match=r"head 'seg' was trained on images of 96x64 pixels .* of 64x64"):
        evaluate(trained, Rectangles(2))


@pytest.mark.slow
def test_the_image_size_of_a_file_is_that_of_its_export(file: Path) -> None:
    assert input_of(file).size == (64, 64)


def test_a_head_without_labels_has_no_metrics(model) -> None:
    metrics = evaluate(model, Rectangles(3, {"seg": {0, 1, 2}}))
    assert {name.partition("/")[0] for name in metrics} == {"cls", "det"}


def test_data_of_other_classes_is_refused(model) -> None:
    data = Rectangles(3)
    data.labels = {"cls": ("a", "b")}
    with pytest.raises(BrickMismatchError, match="head 'cls'"):
        evaluate(model, data)


@pytest.mark.slow
def test_metrics_of_an_exported_file_equal_those_of_its_model(detecting_model: BrickCollection, file: Path) -> None:
    data = Rectangles(5, {"cls": {1}, "det": {0}})
    expected = evaluate(detecting_model, data, batch_size=2)
    assert 0 < expected["det/map_50"] < 1, "without detections this compares nothing"
    assert evaluate(file, data, batch_size=3) == pytest.approx(expected, abs=1e-4, nan_ok=True)


@pytest.mark.slow
def test_a_metric_whose_inputs_a_file_does_not_output_is_left_out_with_a_warning(file: Path, tmp_path: Path) -> None:
    cut = changed(file, tmp_path / "cut.onnx", without_outputs("det/scores", "seg/logits"))
    with pytest.warns(UserWarning, match=r"'det/metrics' reads \['det/scores'\], which the file does not output"):
        metrics = evaluate(str(cut), Rectangles(2))
    assert {name.partition("/")[0] for name in metrics} == {"cls", "seg"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_metrics, "it holds no metrics"),
        (without_outputs("cls/logits", "seg/class_prediction", "det/boxes"), "'cls/metrics' reads"),
    ],
)
def test_a_file_without_any_computable_metric_is_refused(
    file: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    with pytest.raises(BrickMismatchError, match=message):
        evaluate(changed(file, tmp_path / "other.onnx", change), Rectangles(1))


@pytest.mark.slow
def test_data_of_other_classes_than_a_file_is_refused(file: Path) -> None:
    data = Rectangles(3)
    data.labels = {"seg": ("a", "b")}
    with pytest.raises(BrickMismatchError, match="head 'seg': expected the 4 classes"):
        evaluate(file, data)


@pytest.mark.slow
def test_images_of_another_size_than_the_file_takes_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.runs.SIDE", 96)
    with pytest.raises(BrickInputError, match=r"\(batch, 3, 64, 64\), found \(2, 3, 96, 96\)"):
        evaluate(file, Rectangles(2))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BrickNotFoundError, match=r"model\.onnx"):
        evaluate(tmp_path / "model.onnx", Rectangles(1))
