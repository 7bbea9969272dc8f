import json
import signal
import subprocess
import sys
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import Any, final

import pytest
import torch

from brickyard import (
    BrickCollection,
    BrickInputError,
    BrickIntegrityError,
    BrickMismatchError,
    BrickNotFoundError,
    Predictor,
)
from brickyard.core.specs import ResizeMode
from brickyard.data.transforms import Augment, Augmented
from brickyard.recipe.inspection import heads_of
from brickyard.storage.weights import weights_sha256
from brickyard.training.config import TrainerConfig, TrainingConfig
from brickyard.training.fit import fit
from brickyard.training.run_folder import CHECKPOINT
from tests.runs import SIDE, Rectangles, small_model, train_until_killed
from tests.toys import ROOT, SOURCE

SHORT = TrainingConfig(steps=2, batch_size=2, every=2)
SHORT_TWICE = TrainingConfig(steps=4, batch_size=2, every=2, save_every=1)


class Interrupted(BaseException):
    """Stands in for a kill within one process."""


class Interrupting(Rectangles):
    def __getitem__(self, index: int) -> dict:
        if self.read + 1 == self.kill_at:
            self.kill_at = None
            raise Interrupted
        return super().__getitem__(index)


def rows(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    parsed = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in parsed if any(name.startswith(kind) for name in row if name != "step")]


def without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: None if isnan(value) else value for name, value in metrics.items()}  # as JSON has it


def same_weights(first: BrickCollection, second: BrickCollection) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_until_killed(folder, kill_at=None, resume=False)
    return folder


@pytest.mark.slow
def test_a_killed_training_resumes_with_the_results_of_an_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.runs", str(tmp_path / "run")]
    # Step 8 reads images 15 and 16; the last checkpoint is of step 6, in the middle of the epoch.
    killed = subprocess.run([*command, "--kill-at", "15"], cwd=ROOT, capture_output=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=False)["global_step"] == 6
    train_until_killed(tmp_path / "run", kill_at=None, resume=True)
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (uninterrupted / "log.jsonl").read_bytes()
    for name in ("last", "best"):
        files = sorted(file.relative_to(uninterrupted) for file in (uninterrupted / name).rglob("*.*"))
        assert files
        for file in files:
            assert (tmp_path / "run" / file).read_bytes() == (uninterrupted / file).read_bytes(), file


# 8 steps of 2 images; checkpoints after steps 3, 4, 6 and 8, validations of 3 images after steps 4 and 8.
@pytest.mark.parametrize(
    ("of", "kill_at"), [("train", 4), ("train", 7), ("train", 9), ("train", 16), ("val", 2), ("val", 6)]
)
def test_a_training_interrupted_anywhere_resumes_with_the_same_results(
    uninterrupted: Path, tmp_path: Path, of: str, kill_at: int
) -> None:
    config = TrainingConfig(steps=8, batch_size=2, every=4, save_every=3, ema=0.9)
    train = Interrupting(7, noisy=True, kill_at=kill_at if of == "train" else None)
    val = Interrupting(3, kill_at=kill_at if of == "val" else None)
    with pytest.raises(Interrupted):
        fit(small_model(drop_path_rate=0.3), train, val, tmp_path / "run", config)
    model = small_model(drop_path_rate=0.3)
    fit(model, Rectangles(7, noisy=True), Rectangles(3), tmp_path / "run", config, resume=True)
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (uninterrupted / "log.jsonl").read_bytes()
    assert same_weights(model, BrickCollection.from_pretrained(uninterrupted / "last"))


def test_resuming_a_finished_training_changes_nothing(uninterrupted: Path) -> None:
    before = (uninterrupted / "log.jsonl").read_bytes()
    train_until_killed(uninterrupted, kill_at=None, resume=True)
    assert (uninterrupted / "log.jsonl").read_bytes() == before


def test_a_training_with_other_settings_is_not_resumed(uninterrupted: Path) -> None:
    config = TrainingConfig(steps=8, batch_size=4, every=4, save_every=3, ema=0.9)
    with pytest.raises(BrickMismatchError) as error:
        fit(
            small_model(),
            Rectangles(7),
            Rectangles(3),
            uninterrupted,
            config,
            resume=True,
            provenance={"data": "other"},
        )
    assert error.value.problems == ["batch_size: expected 2, found 4", "data: expected None, found 'other'"]


def test_a_folder_with_a_training_is_not_overwritten(uninterrupted: Path) -> None:
    with pytest.raises(FileExistsError, match="holds a training"):
        fit(small_model(), Rectangles(7), Rectangles(3), uninterrupted, SHORT)


def test_without_a_training_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(BrickNotFoundError, match="No training"):
        fit(small_model(), Rectangles(7), Rectangles(3), tmp_path / "none", SHORT, resume=True)


def test_the_log_has_a_row_for_every_step_and_validation_of_a_short_training(uninterrupted: Path) -> None:
    assert [row["step"] for row in rows(uninterrupted, "train/")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["step"] for row in rows(uninterrupted, "validation/")] == [4, 8]
    names = {
        f"validation_{head}_visualization_{step}_{n}.png"
        for head in ("cls", "seg", "det")
        for step in (4, 8)
        for n in range(2)
    }
    assert {file.name for file in (uninterrupted / "visualizations").iterdir()} == names


def test_the_callback_and_the_return_value_get_the_metrics_of_the_validations(tmp_path: Path) -> None:
    received = []
    config = TrainingConfig(steps=4, batch_size=2, every=2)
    returned = fit(
        small_model(),
        Rectangles(5),
        Rectangles(3),
        tmp_path,
        config,
        on_validation=lambda validation: received.append((validation.step, validation.metrics)),
    )
    logged = [(row.pop("step"), row) for row in rows(tmp_path, "validation/")]
    assert [(step, without_nan(metrics)) for step, metrics in received] == logged
    assert without_nan(returned) == logged[-1][1]


def test_the_average_is_saved_and_returned_and_a_frozen_brick_keeps_its_hash(tmp_path: Path) -> None:
    model = small_model()
    model.freeze("backbone")
    before = weights_sha256(model["backbone"].model, {})
    fit(model, Rectangles(5), Rectangles(3), tmp_path, TrainingConfig(steps=4, batch_size=2, every=4, ema=0.5))
    state = torch.load(tmp_path / CHECKPOINT, weights_only=False)
    trained = state["state_dict"]["bricks.cls.head.model.weight"]
    saved = BrickCollection.from_pretrained(tmp_path / "last")
    assert same_weights(model, saved)
    assert not torch.equal(saved["cls/head"].model.weight, trained)
    assert weights_sha256(saved["backbone"].model, {}) == weights_sha256(model["backbone"].model, {}) == before


def test_the_seed_determines_the_training(tmp_path: Path) -> None:
    def losses(seed: int, folder: str) -> list[float]:
        config = TrainingConfig(steps=3, batch_size=2, every=3, seed=seed)
        fit(small_model(), Rectangles(6, noisy=True), Rectangles(1), tmp_path / folder, config)
        return [row["train/loss"] for row in rows(tmp_path / folder, "train/")]

    first = losses(0, "first")
    assert losses(0, "again") == first
    assert losses(1, "other") != first


def test_a_data_set_of_one_image_trains(tmp_path: Path) -> None:
    assert fit(small_model(), Rectangles(1), Rectangles(1), tmp_path, SHORT)["validation/loss"] > 0


def test_heads_store_the_image_size_of_the_training_data(uninterrupted: Path) -> None:
    predictor = Predictor(uninterrupted / "last")
    assert predictor.read([SOURCE / "brickyard" / "samples" / "coffee.jpg"]).shape == (1, 3, SIDE, SIDE)


@pytest.mark.parametrize("resize_mode", ["squash", "letterbox"])
def test_heads_store_how_images_were_resized(resize_mode: ResizeMode, tmp_path: Path) -> None:
    rectangles = Rectangles(2)
    data = Augmented(rectangles, Augment(48, rectangles.kinds, train=False, resize_mode=resize_mode))
    fit(small_model("test_resnet_cls"), data, data, tmp_path / "run", TrainingConfig(steps=1, batch_size=2, every=1))
    model = BrickCollection.from_pretrained(tmp_path / "run" / "last")
    assert heads_of(model.bricks())["cls"].image_size == (48, 48)
    assert heads_of(model.bricks())["cls"].resize_mode == resize_mode
    assert json.loads((tmp_path / "run" / "last" / "cls" / "head.json").read_text())["resize_mode"] == resize_mode


def test_a_training_may_end_in_the_warmup(tmp_path: Path) -> None:
    config = TrainingConfig(steps=1, batch_size=2, every=1)
    fit(small_model("test_resnet_cls"), Rectangles(2), Rectangles(2), tmp_path / "run", config)
    assert (tmp_path / "run" / "last" / "bricks.json").is_file()


@pytest.mark.parametrize(
    ("config", "trainer_config", "message"),
    [
        (TrainingConfig(steps=2, precision="fp16"), TrainerConfig(), "fp16"),
        (SHORT, TrainerConfig(accelerator="abacus"), "abacus"),
        (SHORT, TrainerConfig(devices=0), "0"),
    ],
)
def test_unavailable_hardware_is_an_error_and_no_run_is_started(
    config: TrainingConfig, trainer_config: TrainerConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BrickInputError, match=message):
        fit(small_model("test_resnet_cls"), Rectangles(2), Rectangles(2), tmp_path / "run", config, trainer_config)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_fully_frozen_model_is_an_error_and_no_run_is_started(tmp_path: Path) -> None:
    model = small_model("test_resnet_cls")
    model.freeze("backbone")
    model.freeze("cls")
    with pytest.raises(BrickInputError, match="every brick frozen"):
        fit(model, Rectangles(2), Rectangles(2), tmp_path / "run", SHORT)
    assert not (tmp_path / "run").exists()


class Swapped(Rectangles):
    def __init__(self) -> None:
        super().__init__(2)
        self.labels = {**self.labels, "cls": ("green", "red", "blue")}


@pytest.mark.parametrize(("val", "message"), [(Swapped(), "validation data"), (Rectangles(0), "validation data")])
def test_mismatched_data_is_an_error_and_no_run_is_started(val: Rectangles, message: str, tmp_path: Path) -> None:
    with pytest.raises((BrickMismatchError, BrickInputError), match=message):
        fit(small_model("test_resnet_cls"), Rectangles(2), val, tmp_path / "run", SHORT)
    assert not (tmp_path / "run").exists()


def test_a_head_without_labels_is_an_error_that_names_it_and_no_run_is_started(tmp_path: Path) -> None:
    data = Rectangles(2)
    data.labels = {"det": data.labels["det"]}
    with pytest.raises(BrickMismatchError, match=r"head 'seg': expected labels, found labels for \['det'\] only"):
        fit(small_model("test_resnet_seg_det-ssdlite"), data, data, tmp_path / "run", SHORT)
    assert not (tmp_path / "run").exists()


def test_a_head_without_labels_is_saved_as_not_trained_until_it_is_trained(tmp_path: Path) -> None:
    data = Rectangles(2)
    data.labels = {"cls": data.labels["cls"]}
    data.unlabelled = {"seg": {0, 1}, "det": {0, 1}}
    model = small_model("test_resnet_cls_seg")
    fit(model, data, data, tmp_path / "first", SHORT, allow_unlabelled=True)
    stored = json.loads((tmp_path / "first" / "last" / "seg" / "head.json").read_text())
    assert stored["trained"] is False
    assert "trained" not in json.loads((tmp_path / "first" / "last" / "cls" / "head.json").read_text())
    with pytest.warns(UserWarning, match=r"heads \['seg'\] have not been trained: their results are random"):
        Predictor(tmp_path / "first" / "last")
    again = BrickCollection.from_pretrained(tmp_path / "first" / "last")
    fit(again, Rectangles(2), Rectangles(2), tmp_path / "second", SHORT)
    assert "trained" not in json.loads((tmp_path / "second" / "last" / "seg" / "head.json").read_text())
    third = BrickCollection.from_pretrained(tmp_path / "second" / "last")
    before = third["seg/head"].model.classifier.weight.clone()
    fit(third, data, data, tmp_path / "third", SHORT, allow_unlabelled=True)
    assert "trained" not in json.loads((tmp_path / "third" / "last" / "seg" / "head.json").read_text())
    assert torch.equal(third["seg/head"].model.classifier.weight, before)
    assert all(parameter.requires_grad for parameter in third.parameters())


def test_a_frozen_head_needs_no_labels(tmp_path: Path) -> None:
    data = Rectangles(2)
    data.labels = {"cls": data.labels["cls"]}
    model = small_model("test_resnet_cls_seg")
    model.freeze("seg")
    fit(model, data, data, tmp_path, SHORT)


def test_a_resumed_training_reports_the_whole_total_and_the_speed_since_it_was_resumed(tmp_path: Path) -> None:
    config = TrainingConfig(steps=8, batch_size=2, every=4, save_every=3, monitor="cls/Accuracy")
    first, second = [], []
    data = Interrupting(7, noisy=True, kill_at=15)
    with pytest.raises(Interrupted):
        fit(small_model(), data, Rectangles(3), tmp_path, config, on_validation=first.append)
    start = perf_counter()
    fit(small_model(), Rectangles(7), Rectangles(3), tmp_path, config, resume=True, on_validation=second.append)
    elapsed = perf_counter() - start
    assert [(each.step, each.total_steps) for each in (*first, *second)] == [(4, 8), (8, 8)]
    assert 4 / elapsed < second[0].images_per_second < 4 / (elapsed / 20)  # 2 steps of 2 images, not 8
    scores = {each.step: each.metrics["validation/cls/Accuracy"] for each in (*first, *second)}
    assert second[0].monitor == "validation/cls/Accuracy"
    assert second[0].best_step == max(scores, key=lambda step: scores[step])
    assert second[0].best_score == max(scores.values())


def test_the_progress_bar_of_a_resumed_training_starts_at_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainingConfig(steps=8, batch_size=2, every=4, save_every=3)
    with pytest.raises(Interrupted):
        fit(small_model(), Interrupting(7, kill_at=15), Rectangles(3), tmp_path, config)
    capsys.readouterr()
    fit(small_model(), Rectangles(7), Rectangles(3), tmp_path, config, resume=True, progress=True)
    bar = capsys.readouterr().err
    assert "6/8" in bar
    assert "8/8" in bar
    assert "0/8" not in bar


def test_what_a_killed_training_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(small_model("test_resnet_cls"), Interrupting(3, kill_at=3), Rectangles(2), tmp_path, SHORT_TWICE)
    (tmp_path / ".last.ckpt-abc123").mkdir()
    (tmp_path / ".last.ckpt-abc123" / "half").write_bytes(b"half")
    (tmp_path / ".last.ckpt-abc123.lock").touch()
    (tmp_path / ".other").mkdir()
    fit(small_model("test_resnet_cls"), Rectangles(3), Rectangles(2), tmp_path, SHORT_TWICE, resume=True)
    assert {file.name for file in tmp_path.iterdir() if file.name.startswith(".")} == {".other"}


@pytest.mark.parametrize("text", ["", "{", "[1]", "5"])
def test_the_error_for_damaged_settings_names_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(BrickIntegrityError, match=r"config\.yaml is damaged"):
        fit(small_model("test_resnet_cls"), Rectangles(2), Rectangles(2), tmp_path, SHORT, resume=True)


@final
class _Unreadable(Rectangles):
    """Data whose first image can be read, and no other."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index:
            raise BrickInputError(f"{index}.jpg", "an image", "no such file")
        return dict(super().__getitem__(index))


def test_a_start_that_fails_leaves_no_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for data, kept in ((_Unreadable(4), []), (Rectangles(4), ["last", "last.ckpt", "log.jsonl", "config.yaml"])):
        if kept:
            fit(small_model("test_resnet_cls"), data, data, out, SHORT)
        else:
            with pytest.raises(BrickInputError, match=r"\d\.jpg"):
                fit(small_model("test_resnet_cls"), data, data, out, SHORT)
        assert {path.name for path in tmp_path.rglob("*")} >= set(kept)
        assert out.exists() == bool(kept)


def test_a_start_that_fails_leaves_other_files_and_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BrickInputError):
        fit(small_model("test_resnet_cls"), _Unreadable(4), Rectangles(4), tmp_path, SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "config.yaml").write_text("{}")  # of a run that was killed before its first checkpoint
    with pytest.raises(FileExistsError, match="overwrite"):
        fit(small_model("test_resnet_cls"), Rectangles(4), Rectangles(4), tmp_path, SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]


def test_a_run_is_overwritten_only_if_asked(tmp_path: Path) -> None:
    model, data = small_model("test_resnet_cls"), Rectangles(4)
    fit(model, data, data, tmp_path, SHORT)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "last" / "old.json").write_text("{}")
    rows = (tmp_path / "log.jsonl").read_text()
    with pytest.raises(FileExistsError, match="overwrite"):
        fit(model, data, data, tmp_path, SHORT)
    fit(small_model("test_resnet_cls"), data, data, tmp_path, SHORT, overwrite=True)
    assert (tmp_path / "notes.txt").exists()
    assert not (tmp_path / "last" / "old.json").exists()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(rows.splitlines())


def test_a_run_cannot_be_both_resumed_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(BrickInputError, match="either resume or overwrite"):
        fit(small_model("test_resnet_cls"), Rectangles(2), Rectangles(2), tmp_path, SHORT, resume=True, overwrite=True)
    assert (tmp_path / "config.yaml").exists()
