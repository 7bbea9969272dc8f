from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.trainer.states import TrainerFn

from brickyard import BrickCollection, BrickIntegrityError, UnknownNameError, UnsafeBrickError
from brickyard.training.checkpoints import CHECKPOINT, CheckpointCallback, check_checkpoint
from brickyard.training.run_log import RunLog
from tests.runs import small_model

MODULE = SimpleNamespace(device_mesh=None)


class Trainer(SimpleNamespace):
    """What a keeper looks at, and where it saves."""

    def __init__(self, **values: object) -> None:
        facts = {"sanity_checking": False, "is_global_zero": True, "val_check_batch": 10, "callback_metrics": {}}
        super().__init__(**{**facts, "state": SimpleNamespace(fn=TrainerFn.FITTING), "saved": [], **values})

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        assert not weights_only
        self.saved.append((self.global_step, path))


def keeper(folder: Path, model: BrickCollection, **options: object) -> CheckpointCallback:
    options = {"every": 3, "monitor": "validation/loss", "mode": "min", **options}
    return CheckpointCallback(folder, model, None, RunLog(folder), **options)


def test_a_checkpoint_comes_every_so_many_steps_but_not_before_a_validation(tmp_path: Path) -> None:
    trainer, keep = Trainer(), keeper(tmp_path, small_model("test_resnet_cls"))
    for step in range(1, 31):
        trainer.global_step = step
        keep.on_train_batch_end(trainer, MODULE, None, None, step - 1)
    assert [step for step, _ in trainer.saved] == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert {path for _, path in trainer.saved} == {tmp_path / CHECKPOINT}


@pytest.mark.parametrize(
    ("monitor", "mode", "values", "best"),
    [("validation/loss", "min", [3.0, 1.0, 2.0], 1), ("validation/F1", "max", [0.5, 0.25, 0.75], 2)],
)
def test_the_best_and_the_last_model_are_kept(
    tmp_path: Path, monitor: str, mode: str, values: list[float], best: int
) -> None:
    model = small_model("test_resnet_cls")
    keep = keeper(tmp_path, model, monitor=monitor, mode=mode)
    trainer = Trainer(global_step=10)
    for number, value in enumerate(values):
        with torch.no_grad():
            model["cls/head"].model.bias.fill_(number)
        trainer.callback_metrics = {monitor: torch.tensor(value), "train/loss": torch.tensor(9.0)}
        keep.on_validation_end(trainer, MODULE)
    assert keep.figures == {monitor: values[-1]}
    for name, number in (("best", best), ("last", 2)):
        kept = BrickCollection.from_pretrained(tmp_path / name)
        assert kept["cls/head"].model.bias.unique().tolist() == [number]
    assert len(trainer.saved) == 3


def test_what_was_best_is_known_after_an_interruption(tmp_path: Path) -> None:
    model = small_model("test_resnet_cls")
    first, second = keeper(tmp_path, model), keeper(tmp_path, model)
    trainer = Trainer(global_step=10, callback_metrics={"validation/loss": torch.tensor(1.0)})
    first.on_validation_end(trainer, MODULE)
    second.load_state_dict(first.state_dict())
    trainer.callback_metrics = {"validation/loss": torch.tensor(2.0)}
    with torch.no_grad():
        model["cls/head"].model.bias.fill_(7)
    second.on_validation_end(trainer, MODULE)
    assert BrickCollection.from_pretrained(tmp_path / "best")["cls/head"].model.bias.max() < 7
    assert BrickCollection.from_pretrained(tmp_path / "last")["cls/head"].model.bias.min() == 7


def test_rows_of_the_log_after_a_checkpoint_are_forgotten(tmp_path: Path) -> None:
    keep = keeper(tmp_path, small_model("test_resnet_cls"))
    keep.run_log.cut(0)
    keep.run_log.log_metrics({"a": 1.0}, step=1)
    state = keep.state_dict()
    keep.run_log.log_metrics({"a": 2.0}, step=2)
    keep.load_state_dict(state)
    assert keep.run_log.file.read_text() == '{"step": 1, "a": 1.0}\n'


def test_a_figure_that_nobody_measures_is_refused_with_those_there_are(tmp_path: Path) -> None:
    keep = keeper(tmp_path, small_model("test_resnet_cls"), monitor="validation/cls/F2")
    trainer = Trainer(global_step=10, callback_metrics={"validation/cls/F1": torch.tensor(1.0)})
    with pytest.raises(UnknownNameError, match="Did you mean 'validation/cls/F1'"):
        keep.on_validation_end(trainer, MODULE)


@pytest.mark.parametrize("values", [{"sanity_checking": True}, {"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}])
def test_nothing_is_kept_outside_a_training(tmp_path: Path, values: dict) -> None:
    trainer = Trainer(global_step=10, **values)
    keeper(tmp_path, small_model("test_resnet_cls")).on_validation_end(trainer, MODULE)
    assert not list(tmp_path.iterdir())
    assert not trainer.saved


def test_what_is_no_number_is_never_best(tmp_path: Path) -> None:
    model = small_model("test_resnet_cls")
    keep, trainer = keeper(tmp_path, model), Trainer(global_step=10)
    best = []
    for number, value in enumerate((float("nan"), 3.0, 1.0, float("nan"), 2.0)):
        with torch.no_grad():
            model["cls/head"].model.bias.fill_(number)
        trainer.callback_metrics = {"validation/loss": torch.tensor(value)}
        keep.on_validation_end(trainer, MODULE)
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
def test_a_damaged_checkpoint_is_named(tmp_path: Path, state: object) -> None:
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"") if state is None else torch.save(state, file)
    with pytest.raises(BrickIntegrityError, match=r"last\.ckpt"):
        check_checkpoint(file)
