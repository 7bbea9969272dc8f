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
    monkeypatch.setattr("brickyard.data.readers._SCENES", {"train": 50, "val": 10, "test": 6})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = brickyard.create_model_for(brickyard.open_data("digits", "test", length=1), "test_resnet_cls-multilabel")
    brickyard.export_onnx(model, path, image_size=48)
    return path


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def rows(told: str) -> dict[str, list[str]]:
    cells = [line.replace("│", " ").split() for line in told.splitlines() if line.startswith("│")]
    return {name: values for name, *values in cells}


@pytest.mark.slow
def test_with_labelled_pictures_int8_tells_the_metrics_before_and_after(file: Path, tmp_path: Path) -> None:
    done = run(quantize, file, tmp_path / "small.onnx", "--data", "digits", *SIZE, "--length", 5)
    assert done.exit_code == 0, done.output
    data = brickyard.open_data("digits", "test", length=5, image_size=48)
    before, after = brickyard.evaluate(file, data), brickyard.evaluate(tmp_path / "small.onnx", data)
    assert rows(done.stdout) == {name: [f"{before[name]:.4f}", f"{after[name]:.4f}"] for name in before}
    assert "5 pictures of test" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 3])
def test_without_pictures_int8_is_calibrated_on_the_first_of_the_validation(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr("brickyard.cli.export._CALIBRATED", 5)
    seen: list[np.ndarray] = []
    monkeypatch.setattr("brickyard.quantize_onnx", lambda source, path, images, **_: seen.extend(images))
    run(quantize, file, tmp_path / "small.onnx", "--data", "digits", *SIZE, "--batch-size", batch_size)
    expected = brickyard.open_data("digits", "val", image_size=48)
    found = np.concatenate(seen)
    assert 5 <= len(found) < 10
    for scene, picture in enumerate(found):
        np.testing.assert_array_equal(picture, expected[scene]["image"].numpy())


@pytest.mark.slow
def test_pictures_are_what_int8_is_calibrated_on(file: Path, tmp_path: Path) -> None:
    samples = SOURCE / "brickyard" / "samples"
    done = run(quantize, file, tmp_path / "small.onnx", samples)
    assert done.exit_code == 0, done.output
    predictor = brickyard.Predictor(file)
    images = predictor.read(predictor.find(samples))
    brickyard.quantize_onnx(file, tmp_path / "same.onnx", [images])
    found, expected = (
        OnnxSession(tmp_path / name)({"image": images.astype(np.float32) / 255}) for name in ("small.onnx", "same.onnx")
    )
    np.testing.assert_array_equal(found["cls/logits"], expected["cls/logits"])


@pytest.mark.slow
def test_data_that_the_file_is_not_for_is_refused_before_anything_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brickyard.open_data", lambda *_, **__: Rectangles(2))
    done = run(quantize, file, tmp_path / "small.onnx", "--data", "digits")
    assert isinstance(done.exception, BrickMismatchError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Give PICTURES, or --data"),
        (["photos", "--length", 3], "--image-size and --length are of --data"),
        (["photos"], "is there already. Pass --overwrite"),
    ],
)
def test_what_cannot_be_quantised_is_told_at_once(tmp_path: Path, arguments: list[object], told: str) -> None:
    (tmp_path / "small.onnx").write_bytes(b"mine")
    done = run(quantize, tmp_path / "model.onnx", tmp_path / "small.onnx", *arguments)
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())
    assert (tmp_path / "small.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "told"), [(["model.tflite"], "What kind is model.tflite?"), (["m.pt2", "--opset", 18], "ONNX only")]
)
def test_a_kind_of_file_that_nobody_writes_is_refused(arguments: list[object], told: str) -> None:
    done = run(export, "test_resnet_cls", *arguments)
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())
