import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader, TensorDataset

from brickyard import BrickCollection, BrickIntegrityError, UnknownNameError, UnsafeBrickError
from brickyard.training.checkpoints import AtomicCheckpointIO, CheckpointCallback, check_checkpoint
from brickyard.training.run_folder import CHECKPOINT
from brickyard.training.run_log import RunLog
from tests.runs import small_model
from tests.training.toys import quiet_trainer

MODULE = SimpleNamespace(device_mesh=None)


class Trainer(SimpleNamespace):
    """The attributes of a trainer that the callback reads, and a record of its checkpoints."""

    def __init__(self, **values: object) -> None:
        defaults = {
            "sanity_checking": False,
            "is_global_zero": True,
            "val_check_batch": 10,
            "accumulate_grad_batches": 1,
            "callback_metrics": {},
        }
        super().__init__(**{**defaults, "state": SimpleNamespace(fn=TrainerFn.FITTING), "saved": [], **values})

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        assert not weights_only
        self.saved.append((self.global_step, path))


def create_callback(folder: Path, model: BrickCollection, **options: object) -> CheckpointCallback:
    options = {"every": 3, "monitor": "validation/loss", "mode": "min", **options}
    return CheckpointCallback(folder, model, None, RunLog(folder), **options)


def test_checkpoints_are_saved_at_the_interval_but_not_right_before_a_validation(tmp_path: Path) -> None:
    trainer, callback = Trainer(), create_callback(tmp_path, small_model("test_resnet_cls"))
    for step in range(1, 31):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, MODULE, None, None, step - 1)
    assert [step for step, _ in trainer.saved] == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert {path for _, path in trainer.saved} == {tmp_path / CHECKPOINT}


@pytest.mark.parametrize(
    ("monitor", "mode", "values", "best"),
    [("validation/loss", "min", [3.0, 1.0, 2.0], 1), ("validation/F1", "max", [0.5, 0.25, 0.75], 2)],
)
def test_the_best_and_the_last_model_are_saved(
    tmp_path: Path, monitor: str, mode: str, values: list[float], best: int
) -> None:
    model = small_model("test_resnet_cls")
    callback = create_callback(tmp_path, model, monitor=monitor, mode=mode)
    trainer = Trainer(global_step=10)
    for number, value in enumerate(values):
        with torch.no_grad():
            model["cls/head"].model.bias.fill_(number)
        trainer.callback_metrics = {monitor: torch.tensor(value), "train/loss": torch.tensor(9.0)}
        callback.on_validation_end(trainer, MODULE)
    assert callback.metrics == {monitor: values[-1]}
    for name, number in (("best", best), ("last", 2)):
        saved = BrickCollection.from_pretrained(tmp_path / name)
        assert saved["cls/head"].model.bias.unique().tolist() == [number]
    assert len(trainer.saved) == 3


def test_the_best_score_is_restored_from_a_checkpoint(tmp_path: Path) -> None:
    model = small_model("test_resnet_cls")
    first, second = create_callback(tmp_path, model), create_callback(tmp_path, model)
    trainer = Trainer(global_step=10, callback_metrics={"validation/loss": torch.tensor(1.0)})
    first.on_validation_end(trainer, MODULE)
    second.load_state_dict(first.state_dict())
    trainer.callback_metrics = {"validation/loss": torch.tensor(2.0)}
    with torch.no_grad():
        model["cls/head"].model.bias.fill_(7)
    second.on_validation_end(trainer, MODULE)
    assert BrickCollection.from_pretrained(tmp_path / "best")["cls/head"].model.bias.max() < 7
    assert BrickCollection.from_pretrained(tmp_path / "last")["cls/head"].model.bias.min() == 7


def test_loading_a_checkpoint_removes_the_rows_logged_after_it(tmp_path: Path) -> None:
    callback = create_callback(tmp_path, small_model("test_resnet_cls"))
    callback.run_log.truncate(0)
    callback.run_log.log_metrics({"a": 1.0}, step=1)
    state = callback.state_dict()
    callback.run_log.log_metrics({"a": 2.0}, step=2)
    callback.load_state_dict(state)
    assert callback.run_log.file.read_text() == '{"step": 1, "a": 1.0}\n'


def test_an_unknown_metric_to_monitor_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    callback = create_callback(tmp_path, small_model("test_resnet_cls"), monitor="validation/cls/F2")
    trainer = Trainer(global_step=10, callback_metrics={"validation/cls/F1": torch.tensor(1.0)})
    with pytest.raises(UnknownNameError, match="Did you mean 'validation/cls/F1'"):
        callback.on_validation_end(trainer, MODULE)


@pytest.mark.parametrize("values", [{"sanity_checking": True}, {"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}])
def test_nothing_is_saved_outside_of_training(tmp_path: Path, values: dict) -> None:
    trainer = Trainer(global_step=10, **values)
    create_callback(tmp_path, small_model("test_resnet_cls")).on_validation_end(trainer, MODULE)
    assert not list(tmp_path.iterdir())
    assert not trainer.saved


def test_a_nan_score_is_never_best(tmp_path: Path) -> None:
    model = small_model("test_resnet_cls")
    callback, trainer = create_callback(tmp_path, model), Trainer(global_step=10)
    best = []
    for number, value in enumerate((float("nan"), 3.0, 1.0, float("nan"), 2.0)):
        with torch.no_grad():
            model["cls/head"].model.bias.fill_(number)
        trainer.callback_metrics = {"validation/loss": torch.tensor(value)}
        callback.on_validation_end(trainer, MODULE)
        best.append(BrickCollection.from_pretrained(tmp_path / "best")["cls/head"].model.bias.max().item())
    assert best == [0, 1, 2, 2, 2]


class RunsCode:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": RunsCode()}, "last.ckpt")
    with pytest.raises(UnsafeBrickError, match=r"last\.ckpt holds more than tensors"):
        check_checkpoint(Path("last.ckpt"))
    assert not Path("ran").exists()


@pytest.mark.parametrize("state", [None, {"hello": 1}, [1]])
def test_the_error_for_a_damaged_checkpoint_names_the_file(tmp_path: Path, state: object) -> None:
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"") if state is None else torch.save(state, file)
    with pytest.raises(BrickIntegrityError, match=r"last\.ckpt"):
        check_checkpoint(file)


class Linear(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_failed_save_leaves_the_previous_checkpoint_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / CHECKPOINT
    AtomicCheckpointIO().save_checkpoint({"step": torch.tensor(1)}, file)
    before = file.read_bytes()

    def partial_save(checkpoint: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", partial_save)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"step": torch.tensor(2)}, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("fails_at", ["before", "half", "before fsync", "before replace", "after replace"])
def test_a_kill_at_any_moment_of_a_save_leaves_the_previous_checkpoint_or_the_new_one(
    tmp_path: Path, fails_at: str
) -> None:
    file = tmp_path / CHECKPOINT
    states = [
        {"state_dict": {"step": torch.tensor(step)}, "loops": {}, "pytorch-lightning_version": "2"} for step in (1, 2)
    ]
    AtomicCheckpointIO().save_checkpoint(states[0], file)
    child = os.fork()
    if child == 0:
        try:
            kill_while_saving(states[1], file, fails_at)
        finally:
            os._exit(1)  # not reached
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    check_checkpoint(file)
    step = int(torch.load(file)["state_dict"]["step"])
    assert step == (2 if fails_at == "after replace" else 1)
    AtomicCheckpointIO().save_checkpoint(states[1], file)  # removes what the killed process left
    assert list(tmp_path.iterdir()) == [file]


def kill_while_saving(state: dict, file: Path, at: str) -> None:
    """Save a checkpoint and kill this process at a moment."""
    save, fsync, replace = torch.save, os.fsync, os.replace

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_save(checkpoint: dict, path: Path) -> None:
        if at == "before":
            kill()
        save(checkpoint, path)
        if at == "half":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            kill()

    def killed_fsync(descriptor: int) -> None:
        if at == "before fsync":
            kill()
        fsync(descriptor)

    def killed_replace(source: Path, target: Path) -> None:
        if at == "before replace":
            kill()
        replace(source, target)
        if at == "after replace":
            kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", killed_save)
        patch.setattr(os, "fsync", killed_fsync)
        patch.setattr(os, "replace", killed_replace)
        AtomicCheckpointIO().save_checkpoint(state, file)


def test_a_trainer_writes_checkpoints_next_to_their_target_and_not_into_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    trainer = quiet_trainer(tmp_path, max_steps=1, plugins=[AtomicCheckpointIO()])
    trainer.fit(Linear(), DataLoader(TensorDataset(torch.ones(2, 1))))
    trainer.save_checkpoint(tmp_path / CHECKPOINT, weights_only=False)
    check_checkpoint(tmp_path / CHECKPOINT)
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]
