from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from brickyard import BrickCollection, BrickInputError, UnknownNameError
from brickyard.training.config import TrainingConfig
from brickyard.training.fit import fit
from tests.runs import Rectangles, small_model
from tests.training.test_fit import rows, same_weights


def config(**options: object) -> TrainingConfig:
    return TrainingConfig(**{"steps": 6, "batch_size": 2, "every": 3, "lr": 1e-2, "warmup": 0.0, **options})


class Watching(pl.Callback):
    """Whether the backbone has its first weights and statistics after each step."""

    def __init__(self, model: BrickCollection) -> None:
        self.model, self.before = model, {k: v.clone() for k, v in model["backbone"].state_dict().items()}
        self.unchanged: list[bool] = []

    def on_train_batch_end(self, *_: object) -> None:
        state = self.model["backbone"].state_dict()
        self.unchanged.append(all(torch.equal(value, state[name]) for name, value in self.before.items()))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_brick_is_frozen_until_its_step(tmp_path: Path, step: int, accumulate: int) -> None:
    model = small_model("test_resnet_cls")
    model.freeze("backbone")
    watching = Watching(model)
    options = config(unfreeze=(f"backbone@{step}",), accumulate=accumulate)
    fit(model, Rectangles(7), Rectangles(2), tmp_path, options, callbacks=[watching])
    # The statistics of batch norm change with the first batch, the weights with the last of a step.
    assert watching.unchanged == [number < step * accumulate for number in range(6 * accumulate)]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert BrickCollection.from_pretrained(tmp_path / "last")["backbone"].trainable


def test_until_its_step_a_training_equals_one_with_the_brick_frozen(tmp_path: Path) -> None:
    frozen, model = small_model("test_resnet_cls"), small_model("test_resnet_cls")
    frozen.freeze("backbone")
    fit(frozen, Rectangles(7), Rectangles(2), tmp_path / "frozen", config())
    fit(model, Rectangles(7), Rectangles(2), tmp_path / "model", config(unfreeze=("backbone@4",)))
    losses = [[row["train/loss"] for row in rows(tmp_path / name, "train/")] for name in ("frozen", "model")]
    assert losses[0][:4] == losses[1][:4]
    assert losses[0][5] != losses[1][5]


def test_without_a_step_a_brick_is_trained_from_the_start(tmp_path: Path) -> None:
    models = [small_model("test_resnet_cls") for _ in range(2)]
    models[1].freeze("backbone")
    for number, model in enumerate(models):
        options = config(unfreeze=("backbone",) * number)
        fit(model, Rectangles(7), Rectangles(2), tmp_path / f"{number}", options)
    assert same_weights(*models)


@pytest.mark.parametrize("text", ["backbone@", "backbone@-1", "@5", "backbone@6", "backbone@x", "backbone@1.5", ""])
def test_another_form_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(BrickInputError, match=f"BRICK@STEP with a step below 6, as in backbone@1, found '{text}'"):
        config(unfreeze=(text,))


def test_an_unknown_brick_is_an_error_and_no_run_is_started(tmp_path: Path) -> None:
    options = config(unfreeze=("backbon@2",))
    with pytest.raises(UnknownNameError, match=r"Unknown brick to unfreeze 'backbon'. Did you mean 'backbone'"):
        fit(small_model("test_resnet_cls"), Rectangles(2), Rectangles(2), tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_a_training_in_which_nothing_is_trained_at_first_is_an_error_and_no_run_is_started(tmp_path: Path) -> None:
    model = small_model("test_resnet_cls")
    model.freeze("cls")
    with pytest.raises(BrickInputError, match="trained from the first step"):
        fit(model, Rectangles(2), Rectangles(2), tmp_path / "run", config(unfreeze=("backbone@2",)))
    assert not (tmp_path / "run").exists()
