import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image

import brickyard
from brickyard import BrickCollection, BrickInputError, BrickMismatchError, BrickNotFoundError
from brickyard.cli.main import main
from brickyard.cli.report import TrainingReport
from brickyard.cli.train import ImageSize, _training_size, evaluate, train
from brickyard.data.readers import data_names
from brickyard.training.progress import Validation
from brickyard.training.run_folder import SETTINGS, read_settings

NAME = "test_resnet_cls-multilabel_seg-lraspp"
SHORT = ["--data", "digits", "--image-size", "48", "--steps", "4", "--batch-size", "2", "--every", "2"]


@pytest.fixture(autouse=True)
def _few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brickyard.data.readers._NUM_SCENES", {"train": 50, "val": 4, "test": 6})


def run(command: click.Command, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def evaluated(model: str | Path, file: Path, *arguments: object) -> dict[str, Any]:
    run(evaluate, model, "--data", "digits", "--image-size", "48", "--json", file, *arguments)
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brickyard.data.readers._NUM_SCENES", {"train": 50, "val": 4, "test": 6})
        return folder, run(train, NAME, *SHORT, "--out", folder, "--freeze", "backbone", "--ema", "0.5")


def test_a_training_prints_the_metrics_of_each_validation(trained: tuple[Path, str]) -> None:
    lines = trained[1].splitlines()
    steps = [number for number, line in enumerate(lines) if line.startswith("step ")]
    assert [lines[number].split(",")[0].split(";")[0] for number in steps] == ["step 2 of 4", "step 4 of 4"]
    assert "48x48 pixels" in lines[steps[0]]
    for number in steps:
        _, header, _, *rows = lines[number + 1 : number + 7]
        assert [row.split()[1] for row in (header, *rows)] == ["head", "all", "cls", "seg"]
        assert "MeanIoU 0." in rows[2]
        assert "background" not in rows[2]
    assert max(map(len, lines)) < 120


def test_a_training_ends_with_a_summary(trained: tuple[Path, str]) -> None:
    lines = trained[1].splitlines()
    rows = [json.loads(line) for line in (trained[0] / "log.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert f"Finished 4 steps. Best: step {best}, validation/loss {losses[best]:.4f}." in lines
    assert f"  brickyard eval {trained[0] / 'best'} --data digits" in lines


def test_an_evaluation_writes_a_report(trained: tuple[Path, str], tmp_path: Path) -> None:
    arguments = ["--image-size", "48", "--report", tmp_path / "report", "--worst", "2"]
    output = run(evaluate, trained[0] / "best", "--data", "digits", *arguments)
    names = sorted(file.name for file in (tmp_path / "report").iterdir())
    assert f"Report in {tmp_path / 'report'}: {', '.join(names)}." in output
    for name in ("metrics.csv", "cls_precision_recall.png", "cls_classes.csv", "seg_confusion.png", "seg_worst.png"):
        assert name in names
    assert len((tmp_path / "report" / "seg_worst.csv").read_text().splitlines()) == 3


def test_the_options_of_the_schedule_and_the_best_model_are_on_the_command_line(tmp_path: Path) -> None:
    options = ["--monitor", "seg/MeanIoU", "--mode", "min", "--clip", "1.5", "--warmup", "0.5", "--save-every", "1"]
    output = run(train, NAME, *SHORT, "--out", tmp_path / "run", *options)
    settings = read_settings(tmp_path / "run" / SETTINGS)
    assert [settings[name] for name in ("monitor", "mode", "clip", "warmup", "save_every")] == [
        "seg/MeanIoU",
        "min",
        1.5,
        0.5,
        1,
    ]
    assert "validation/seg/MeanIoU" in output


def test_a_model_is_evaluated_and_trained_on_with_its_own_image_size(trained: tuple[Path, str], tmp_path: Path) -> None:
    output = run(evaluate, trained[0] / "last", "--data", "digits", "--json", tmp_path / "own.json")
    assert "48x48 pixels" in output
    own = json.loads((tmp_path / "own.json").read_text())
    assert own["image_size"] == 48
    assert own == evaluated(trained[0] / "last", tmp_path / "explicit.json")
    with pytest.warns(UserWarning, match="trained on images of 48x48"):
        assert "96x96 pixels" in run(evaluate, trained[0] / "last", "--data", "digits", "--image-size", 96)
    short = ["--data", "digits", "--steps", "1", "--every", "1", "--batch-size", "2"]
    assert "48x48 pixels" in run(train, trained[0] / "last", *short, "--out", tmp_path / "again")
    assert read_settings(tmp_path / "again" / SETTINGS)["image_size"] == 48
    assert "96x96 pixels" in run(train, "test_resnet_seg", *short, "--out", tmp_path / "new")


def test_the_stages_of_a_fine_tuning(trained: tuple[Path, str], tmp_path: Path) -> None:
    def weights(folder: Path) -> dict[str, Any]:
        return BrickCollection.from_pretrained(folder)["backbone"].state_dict()

    assert "backbone: 372,688 parameters, frozen" in run(main, "info", trained[0] / "last")
    before = weights(trained[0] / "last")
    arguments = [str(argument) for argument in (trained[0] / "last", *SHORT, "--out")]
    kept = CliRunner().invoke(train, [*arguments, str(tmp_path / "kept")], catch_exceptions=False)
    assert "Brick 'backbone' stays frozen, as it is stored. --unfreeze backbone trains it" in kept.stderr
    assert all((value == before[name]).all() for name, value in weights(tmp_path / "kept" / "last").items())
    for option, is_changed in (("--freeze", False), ("--unfreeze", True)):
        folder = tmp_path / option
        result = CliRunner().invoke(train, [*arguments, str(folder), option, "backbone"], catch_exceptions=False)
        assert "stays frozen" not in result.stderr
        after = weights(folder / "last")
        assert any((value != before[name]).any() for name, value in after.items()) == is_changed
        info = run(main, "info", folder / "last")
        assert ("frozen" in info) != is_changed


def test_the_losses_are_stated_by_info() -> None:
    output = run(main, "info", "test_resnet_cls_seg")
    assert "seg: cross-entropy + 1.0 * Dice" in output
    assert "cls: cross-entropy" in output


def test_brackets_in_names_are_printed_and_the_json_is_written_first(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"det/map/car [small]": 0.5, "det/map/x[/b]": float("nan"), "det/map_50": -1.0}
    monkeypatch.setattr(brickyard, "evaluate", lambda *_, **__: metrics, raising=False)
    folder = tmp_path / "a [run]"
    shutil.copytree(trained[0] / "last", folder)
    lines = run(evaluate, folder, "--data", "digits", "--json", tmp_path / "a.json")
    assert "car [small]" in lines
    assert "x[/b]" in lines
    assert "a [run]" in lines
    assert json.loads((tmp_path / "a.json").read_text())["metrics"]["det/map/x[/b]"] is None

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no terminal")

    monkeypatch.setattr("rich.console.Console.print", fail)
    with pytest.raises(RuntimeError, match="no terminal"):
        run(evaluate, folder, "--data", "digits", "--json", tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


def test_a_table_of_a_validation_escapes_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    metrics = {"validation/loss": 1.0, "validation/a[/b]/loss": 2.0, "validation/a[/b]/map [all]": -1.0}
    report = TrainingReport(tmp_path, "digits", (48, 64))
    report.add(Validation(1, 2, metrics, "validation/a[/b]/map [all]", 1, -1.0, 3.0))
    report.end()
    output = capsys.readouterr().out
    assert "map [all] -" in output
    assert "a[/b]" in output
    assert "64x48 pixels" in output


@pytest.mark.parametrize(("step", "summary"), [(4, "Finished 4 steps."), (2, "Stopped early after 2 of 4 steps.")])
def test_a_summary_tells_whether_a_training_stopped_early(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, step: int, summary: str
) -> None:
    report = TrainingReport(tmp_path, "digits", (48, 64))
    report.add(Validation(step, 4, {"validation/loss": 1.0}, "validation/loss", 1, 0.5, 3.0))
    report.end()
    assert f"{summary} Best: step 1, validation/loss 0.5000." in capsys.readouterr().out.splitlines()


def test_a_trained_model_has_the_classes_of_the_data_and_its_frozen_brick_unchanged(trained: tuple[Path, str]) -> None:
    model = BrickCollection.from_pretrained(trained[0] / "last")
    assert list(model["seg/head"].head.labels) == ["background", *"0123456789"]
    assert list(model["cls/head"].head.labels) == list("0123456789")
    fresh = brickyard.create_model_for(brickyard.open_data("digits", "train", image_size=48), NAME)
    weights = fresh["backbone"].state_dict()
    assert all((value == weights[name]).all() for name, value in model["backbone"].state_dict().items())


def test_the_settings_are_saved_with_the_model(trained: tuple[Path, str]) -> None:
    settings = read_settings(trained[0] / SETTINGS)
    assert settings["model"] == NAME
    assert (settings["data"], settings["image_size"], settings["freeze"]) == (["digits"], 48, ["backbone"])
    assert (settings["steps"], settings["ema"], settings["seed"]) == (4, 0.5, 0)


def test_an_evaluation_is_reproducible_and_written_as_a_table_and_as_json(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    first = evaluated(trained[0] / "last", tmp_path / "first.json")
    assert evaluated(trained[0] / "last", tmp_path / "second.json") == first
    assert (first["split"], first["length"], first["data"]) == ("test", 6, "digits")
    assert 0 <= first["metrics"]["seg/MeanIoU"] <= 1
    output = run(evaluate, trained[0] / "last", "--data", "digits", "--image-size", 48)
    assert "seg/MeanIoU" in output
    assert f"{first['metrics']['seg/MeanIoU']:.4f}" in output
    assert "6 images of test" in output


def test_the_validation_of_a_training_and_an_evaluation_agree(trained: tuple[Path, str], tmp_path: Path) -> None:
    last = [json.loads(line) for line in (trained[0] / "log.jsonl").read_text().splitlines()][-1]
    assert last["step"] == 4
    measured = evaluated(trained[0] / "last", tmp_path / "val.json", "--split", "val")["metrics"]
    assert measured
    for name, value in measured.items():
        logged = last[f"validation/{name}"]
        assert value == (logged if logged is None else pytest.approx(logged, abs=1e-5)), name


@pytest.mark.slow
def test_the_metrics_of_an_exported_file_equal_those_of_its_model(trained: tuple[Path, str], tmp_path: Path) -> None:
    model = BrickCollection.from_pretrained(trained[0] / "last")
    brickyard.export_onnx(model, tmp_path / "model.onnx", image_size=48)
    expected = evaluated(trained[0] / "last", tmp_path / "expected.json")["metrics"]
    actual = evaluated(tmp_path / "model.onnx", tmp_path / "actual.json")
    assert actual["model"] == str(tmp_path / "model.onnx")
    assert actual["metrics"] == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_length_split_and_seed_select_the_images(trained: tuple[Path, str], tmp_path: Path) -> None:
    short = evaluated(trained[0] / "last", tmp_path / "a.json", "--length", 3)
    assert short["length"] == 3
    assert (
        evaluated(trained[0] / "last", tmp_path / "b.json", "--length", 3, "--seed", 1)["metrics"] != short["metrics"]
    )


def test_a_training_is_resumed_or_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    options = [NAME, *SHORT, "--freeze", "backbone", "--ema", "0.5"]
    assert "was finished before" in run(train, *options, "--out", trained[0], "--resume")
    for arguments, error in (
        ([*options, "--out", trained[0]], FileExistsError),
        ([*options, "--out", tmp_path / "none", "--resume"], BrickNotFoundError),
        ([*options, "--out", trained[0], "--resume", "--seed", "1"], BrickMismatchError),
    ):
        with pytest.raises(error):
            run(train, *arguments)


def test_a_brick_of_another_model_is_where_a_training_starts(trained: tuple[Path, str], tmp_path: Path) -> None:
    source = trained[0] / "last" / "backbone"
    run(
        train,
        "test_resnet_det-ssdlite",
        *SHORT,
        "--out",
        tmp_path / "run",
        "--brick",
        f"backbone={source}",
        "--freeze",
        "backbone",
    )
    backbones = [
        BrickCollection.from_pretrained(folder / "last")["backbone"] for folder in (trained[0], tmp_path / "run")
    ]
    other = backbones[1].state_dict()
    assert all((value == other[name]).all() for name, value in backbones[0].state_dict().items())


def test_a_saved_model_can_be_trained_on(trained: tuple[Path, str], tmp_path: Path) -> None:
    run(train, trained[0] / "last", *SHORT, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "last" / "bricks.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--brick", "backbone"], "expected BRICK=SOURCE, found 'backbone'"),
        (["--freeze", "neck"], "unknown brick 'neck': expected one of preprocessor, backbone, cls, seg"),
        (["--unfreeze", "neck"], "unknown brick 'neck'"),
        (["--unfreeze", "neck@1"], "unknown brick 'neck'"),
        (["--label-smoothing", "1"], "--label-smoothing"),
        (["--sched", "cosin"], "'cosin' is not one of 'cosine'"),
        (["--augment", "heavy"], "'heavy' is not one of 'none', 'light', 'strong'"),
        (["--steps", "0"], "--steps"),
        (["--ema", "2"], "--ema"),
    ],
)
def test_wrong_options_are_refused_by_name(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(train, [NAME, *SHORT, "--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("command", [train, evaluate])
def test_help_names_every_kind_of_data(command: click.Command) -> None:
    shown = " ".join(run(command, "--help").split())
    assert all(kind in shown for kind in data_names())


@pytest.mark.parametrize(("text", "size"), [("96", (96, 96)), ("64x192", (64, 192)), ("64X192", (64, 192))])
def test_an_image_size_is_a_side_or_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert ImageSize().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["0", "a", "64x", "x64", "1x2x3", "-5", "64x0", ""])
def test_another_image_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected pixels, as in 96 or 64x192"):
        ImageSize().convert(text, None, None)


def test_generated_images_have_their_own_size_for_a_new_model() -> None:
    info = brickyard.model_info("test_resnet_cls")
    assert _training_size(info, "digits-text") == (64, 192)
    assert _training_size(info, "digits") == (96, 96)
    assert _training_size(info, "coco:x") == info.spec.input.size


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, [NAME, *SHORT, "--out", str(tmp_path), "--resume", "--overwrite"])
    assert result.exit_code == 2
    assert "it cannot be used with --resume" in result.output


def test_images_are_resized_in_evaluation_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    for name in ("train/cat/a", "train/dog/b", "val/cat/c", "val/dog/d", "test/cat/e", "test/dog/f"):
        (data / name).parent.mkdir(parents=True)
        Image.new("RGB", (60, 20), (200, 30 if "cat" in name else 150, 10)).save(data / f"{name}.png")
    (data / "train" / "cat" / "bad.png").write_bytes(b"no image")
    options = ["--data", f"imagefolder:{data}", "--image-size", "48", "--steps", "1", "--batch-size", "2"]
    command = ["test_resnet_cls", *options, "--out", tmp_path / "run", "--resize-mode", "letterbox"]
    with pytest.raises(BrickInputError, match=r"bad\.png: .*--skip-bad"):
        run(train, *command)
    assert not (tmp_path / "run").exists()
    run(train, *command, "--skip-bad")
    assert read_settings(tmp_path / "run" / SETTINGS)["resize_mode"] == "letterbox"
    opened = []
    open_data = brickyard.open_data
    monkeypatch.setattr(
        brickyard, "open_data", lambda *args, **kwargs: opened.append(open_data(*args, **kwargs)) or opened[-1]
    )
    brickyard.export_onnx(
        BrickCollection.from_pretrained(tmp_path / "run" / "last"), tmp_path / "model.onnx", image_size=48
    )
    for model in (tmp_path / "run" / "last", tmp_path / "model.onnx"):
        run(evaluate, model, "--data", f"imagefolder:{data}", "--image-size", "48")
        frame = opened.pop()[0]["image"]
        assert (frame[:, :16] == 128).all()
        assert (frame[:, 16:32] != 128).all()
    run(train, tmp_path / "run" / "last", *options, "--skip-bad", "--out", tmp_path / "second")  # as the model
    assert read_settings(tmp_path / "second" / SETTINGS)["resize_mode"] == "letterbox"
