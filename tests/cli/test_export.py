import json
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import brickyard
from brickyard import BrickMismatchError
from brickyard.cli.export import export, quantize
from brickyard.cli.predict import predict
from brickyard.cli.train import evaluate
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
@pytest.mark.parametrize("bricks", [None, ["backbone"], ["cls"]])
def test_with_data_the_metrics_are_shown_in_float_for_the_file_and_for_other_bricks(
    file: Path, tmp_path: Path, bricks: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brickyard.cli.export._MAX_CALIBRATION_IMAGES", 8)
    options = [option for brick in bricks or () for option in ("--brick", brick)]
    result = run(quantize, file, tmp_path / "small.onnx", "--data", "digits", *SIZE, "--length", 5, *options)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    data = brickyard.open_data("digits", "test", length=5, image_size=48)
    calibration = brickyard.open_data("digits", "val", length=8, image_size=48)
    images = [np.stack([calibration[index]["image"].numpy() for index in range(8)])]
    variants = [bricks, *[other for other in (None, ["backbone"]) if other != bricks]]
    columns = [brickyard.evaluate(file, data)]
    for index, variant in enumerate(variants):
        brickyard.quantize_onnx(file, tmp_path / f"{index}.onnx", images, bricks=variant)
        columns.append(brickyard.evaluate(tmp_path / f"{index}.onnx", data))
    batch = {"image": images[0].astype(np.float32) / 255}
    actual, expected = (OnnxSession(tmp_path / name)(batch)["cls/logits"] for name in ("small.onnx", "0.onnx"))
    np.testing.assert_array_equal(actual, expected)
    assert rows(result.stdout) == {name: [f"{column[name]:.4f}" for column in columns] for name in columns[0]}
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
        (["parts", "--kind", "pt2", "--split"], "only for the format onnx"),
        (["m.pt2", "--head", "cls"], "only for the format onnx"),
    ],
)
def test_an_unknown_export_format_is_refused(arguments: list[object], message: str) -> None:
    result = run(export, "test_resnet_cls", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.slow
def test_a_folder_of_parts_is_exported_evaluated_quantized_and_predicts(tmp_path: Path) -> None:
    data = brickyard.open_data("digits", "test", length=4, image_size=48)
    model = brickyard.create_model_for(data, "test_resnet_cls-multilabel")
    model.save_pretrained(tmp_path / "mine")
    parts, small, out = tmp_path / "parts", tmp_path / "small", tmp_path / "out"
    result = run(export, tmp_path / "mine", parts, "--split", "--image-size", 48, 48)
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == [f"{parts}/backbone.onnx", f"{parts}/cls.onnx"]
    again = run(export, tmp_path / "mine", parts, "--split", "--head", "cls")
    assert isinstance(again.exception, FileExistsError)

    measured = run(evaluate, parts, "--data", "digits", *SIZE, "--length", 4)
    assert measured.exit_code == 0, measured.output
    expected = brickyard.evaluate(parts, data)
    assert rows(measured.stdout) == {name: [f"{value:.4f}"] for name, value in expected.items()}

    samples = SOURCE / "brickyard" / "samples"
    quantized = run(quantize, parts, small, samples, "--brick", "backbone")
    assert quantized.exit_code == 0, quantized.output
    assert (small / "cls.onnx").read_bytes() == (parts / "cls.onnx").read_bytes()
    predicted = run(predict, samples, "--model", small, "--head", "cls", "--out", out)
    assert predicted.exit_code == 0, predicted.output
    rows_of = json.loads((out / "predictions.json").read_text())
    expected_rows = [prediction.to_json() for prediction in brickyard.Predictor(small).predict(samples)]
    assert [row["cls"] for row in rows_of] == [row["cls"] for row in expected_rows]
