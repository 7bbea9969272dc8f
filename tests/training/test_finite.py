from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from brickyard import BrickCollection, BrickInputError, BrickLoss, BrickTrainable
from brickyard.training.checkpoints import CHECKPOINT
from brickyard.training.config import TrainingConfig
from brickyard.training.finite import FiniteLosses, first_not_finite
from brickyard.training.fit import fit
from tests.runs import Rectangles, small_model


def config(**changes: float) -> TrainingConfig:
    return TrainingConfig(**{"steps": 6, "batch_size": 2, "every": 3, "warmup": 0.0, "lr": 1e30, **changes})


def test_a_loss_that_is_not_finite_stops_the_training_with_the_step_and_the_brick(tmp_path: Path) -> None:
    with pytest.raises(BrickInputError, match=r"training, step 2.*nan or infinite.*brick 'backbone'.*--allow-nan"):
        fit(small_model("test_resnet_cls"), Rectangles(4), Rectangles(2), tmp_path, config())
    assert not (tmp_path / "best").exists()
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_validation_that_is_not_finite_stops_the_training_and_no_model_of_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(BrickInputError, match=r"validation after step 1.*validation/loss nan"):
        fit(small_model("test_resnet_cls"), Rectangles(4), Rectangles(2), tmp_path, config(steps=1, every=1))
    assert not (tmp_path / "last").exists()


def test_the_last_checkpoint_before_it_is_kept_and_the_training_can_go_on_with_nan(tmp_path: Path) -> None:
    model = small_model("test_resnet_cls")
    after_first = []

    def poison(_: object) -> None:
        after_first.append(model["cls/head"].model.weight.clone())
        with torch.no_grad():
            model["cls/head"].model.weight.fill_(float("nan"))

    with pytest.raises(BrickInputError, match=r"step 4.*brick 'cls/head'"):
        fit(model, Rectangles(4), Rectangles(2), tmp_path, config(lr=1e-3), on_validation=poison)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=False)["state_dict"]["bricks.cls.head.model.weight"]
    assert torch.equal(saved, after_first[0])
    fit(small_model("test_resnet_cls"), Rectangles(4), Rectangles(2), tmp_path, config(lr=1e-3), resume=True)


@pytest.mark.filterwarnings("ignore:Stale")  # weights of nan do not change, those of the backbone do
def test_nan_may_be_allowed_and_drawing_it_does_not_end_the_training(tmp_path: Path) -> None:
    metrics = fit(small_model(), Rectangles(4), Rectangles(2), tmp_path, config(), allow_nan=True)
    assert metrics["validation/loss"] != metrics["validation/loss"]
    assert len(list((tmp_path / "visualizations").iterdir())) == 12


def test_a_drawing_that_fails_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in a custom drawing")

    monkeypatch.setattr("brickyard.parts.drawing.classification.DrawClassification.__call__", fail)
    with pytest.warns(UserWarning, match="No visualizations: ZeroDivisionError: in a custom drawing"):
        fit(small_model("test_resnet_cls"), Rectangles(4), Rectangles(2), tmp_path, config(steps=2, every=2, lr=1e-3))
    assert (tmp_path / "best" / "bricks.json").is_file()


def test_where_a_check_would_wait_for_the_device_it_takes_place_before_a_checkpoint() -> None:
    collection = BrickCollection(
        {
            "layer": BrickTrainable(nn.Linear(2, 2), ["x"], ["y"]),
            "loss": BrickLoss(nn.MSELoss(), ["y", "targets"], ["loss"]),
        }
    )
    module = SimpleNamespace(bricks=collection, named_inputs=lambda batch: batch)
    trainer = SimpleNamespace(
        global_step=6,
        log_every_n_steps=10,
        precision_plugin=SimpleNamespace(train_step_context=torch.no_grad),
    )
    batch = {"x": torch.tensor([[1.0, float("inf")]]), "targets": torch.zeros(1, 2)}
    check = FiniteLosses()
    check.on_train_batch_start(trainer, module, batch, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brickyard.training.finite._checks_each_step", lambda loss: False)
        for step in (6, 7):
            trainer.global_step = step
            check.on_before_backward(trainer, module, torch.tensor(float("nan")))
        with pytest.raises(BrickInputError, match=r"training, step 7.*brick 'layer'"):
            check.on_save_checkpoint(trainer, module, {})
    assert first_not_finite(collection, {"x": torch.ones(1, 2), "targets": torch.full((1, 2), 1e30)}) == "loss"
