from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import brickyard
from brickyard import BrickMismatchError
from brickyard.cli.export import export, quantize
from brickyard.export.onnx_runner import OnnxSession
from tests.runs import Rectangles
from tests.toys import SOURCE

SIZE = ("--image-size", 48)


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brickyard.data.readers._NUM_SCENES", {"train": 50, "val": 10, "test": 6})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = brickyard.create_model_for(brickyard.open_data("digits", "test", length=1), "test_resnet_cls-multilabel")
    brickyard.export_onnx(model, path, image_size=48)
    return path


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def rows(output: str) -> dict[str, list[str]]:
    cells = [line.replace("│", " ").split() for line in output.splitlines() if line.startswith("│")]
    return {name: values for name, *values in cells}


@pytest.mark.slow
def test_with_data_the_metrics_are_shown_before_and_after_quantization(file: Path, tmp_path: Path) -> None:
    result = run(quantize, file, tmp_path / "small.onnx", "--data", "digits", *SIZE, "--length", 5)
    assert result.exit_code == 0, result.output
    data = brickyard.open_data("digits", "test", length=5, image_size=48)
    before, after = brickyard.evaluate(file, data), brickyard.evaluate(tmp_path / "small.onnx", data)
    assert rows(result.stdout) == {name: [f"{before[name]:.4f}", f"{after[name]:.4f}"] for name in before}
    assert "5 images of test" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 3])
def test_without_images_int8_is_calibrated_on_the_first_validation_images(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr("brickyard.cli.export._MAX_CALIBRATION_IMAGES", 5)
    seen: list[np.ndarray] = []
    monkeypatch.setattr("brickyard.quantize_onnx", lambda source, path, images, **_: seen.extend(images))
    run(quantize, file, tmp_path / "small.onnx", "--data", "digits", *SIZE, "--batch-size", batch_size)
    expected = brickyard.open_data("digits", "val", image_size=48)
    used = np.concatenate(seen)
    assert 5 <= len(used) < 10
    for index, image in enumerate(used):
        np.testing.assert_array_equal(image, expected[index]["image"].numpy())


@pytest.mark.slow
def test_int8_is_calibrated_on_the_images(file: Path, tmp_path: Path) -> None:
    samples = SOURCE / "brickyard" / "samples"
    result = run(quantize, file, tmp_path / "small.onnx", samples)
    assert result.exit_code == 0, result.output
    predictor = brickyard.Predictor(file)
    images = predictor.read(predictor.find(samples))
    brickyard.quantize_onnx(file, tmp_path / "same.onnx", [images])
    actual, expected = (
        OnnxSession(tmp_path / name)({"image": images.astype(np.float32) / 255}) for name in ("small.onnx", "same.onnx")
    )
    np.testing.assert_array_equal(actual["cls/logits"], expected["cls/logits"])


@pytest.mark.slow
def test_mismatched_data_is_refused_before_anything_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brickyard.open_data", lambda *_, **__: Rectangles(2))
    result = run(quantize, file, tmp_path / "small.onnx", "--data", "digits")
    assert isinstance(result.exception, BrickMismatchError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass IMAGES or --data"),
        (["photos", "--length", 3], "--image-size and --length need --data"),
        (["photos"], "exists. Pass --overwrite"),
    ],
)
def test_wrong_use_of_quantize_is_refused_at_once(tmp_path: Path, arguments: list[object], message: str) -> None:
    (tmp_path / "small.onnx").write_bytes(b"other")
    result = run(quantize, tmp_path / "model.onnx", tmp_path / "small.onnx", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert (tmp_path / "small.onnx").read_bytes() == b"other"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.tflite"], "Unknown export format of model.tflite"),
        (["m.pt2", "--opset", 18], "only for the format onnx"),
    ],
)
def test_an_unknown_export_format_is_refused(arguments: list[object], message: str) -> None:
    result = run(export, "test_resnet_cls", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
