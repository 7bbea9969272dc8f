"""Training where labels are missing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from brickyard import BrickCollection, BrickInputError, MissingInputError
from tests.runs import SIDE, Rectangles, collate_rectangles, small_model
from tests.training.toys import MULTITASK, lightning, quiet_trainer


def step(model: BrickCollection, batch: dict[str, Any], path: Path) -> torch.Tensor:
    loss = lightning(model, path).training_step(batch, 0)
    loss.backward()
    return loss


@pytest.mark.parametrize("loss_weights", [None, {"seg": 2.0}, "learned"])
def test_a_batch_without_a_tasks_labels_trains_the_others(tmp_path, loss_weights):
    model = small_model(MULTITASK, loss_weights=loss_weights)
    data = Rectangles(8, {"det": {0, 1}})
    loss = step(model, collate_rectangles([data[0], data[1]]), tmp_path)
    assert loss > 0
    assert all(parameter.grad is not None for parameter in model["det/head"].parameters())
    assert not any(parameter.grad.any() for parameter in model["det/head"].parameters())
    assert all(parameter.grad.any() for parameter in model["cls/head"].parameters())


def test_rows_without_a_label_leave_the_loss_as_it_is_without_them(tmp_path):
    model = small_model(MULTITASK).eval()
    data = Rectangles(8, {"cls": {1}, "seg": {1}, "det": {1}})
    without = collate_rectangles([data[0], data[2]])
    loss = lightning(model, tmp_path).training_step(collate_rectangles([data[0], data[1], data[2]]), 0)
    torch.testing.assert_close(loss, lightning(model, tmp_path).training_step(without, 0))


def test_an_empty_scene_trains(tmp_path):
    data = Rectangles(8)
    empty = {
        **data[0],
        "targets/seg": torch.zeros(SIDE, SIDE, dtype=torch.int64),
        "targets/det": {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    }
    assert step(small_model(MULTITASK), collate_rectangles([empty, empty]), tmp_path).isfinite()


def test_a_first_batch_without_any_label_is_refused_with_what_is_missing(tmp_path):
    batch = {"image": torch.rand(2, 3, SIDE, SIDE), "target/cls": torch.tensor([0, 1])}
    with pytest.raises(MissingInputError, match="'targets/cls'"):
        step(small_model("test_resnet_cls"), batch, tmp_path)


def test_a_later_batch_without_any_label_is_a_zero(tmp_path):
    module = lightning(small_model(MULTITASK), tmp_path)
    data = Rectangles(8)
    module.training_step(collate_rectangles([data[0], data[1]]), 0)
    loss = module.training_step({"image": torch.rand(2, 3, SIDE, SIDE)}, 1)
    assert loss == 0
    loss.backward()


def test_losses_of_a_validation_are_means_over_labelled_rows_whatever_the_batches(tmp_path):
    model = small_model("test_resnet_cls").eval()
    data = Rectangles(5, {"cls": {1, 4}})
    logits = model(collate_rectangles([data[row] for row in (0, 2, 3)]), outputs=["cls/logits"])["cls/logits"]
    expected = nn.functional.cross_entropy(logits, torch.tensor([0, 2, 0])).item()
    for batch_size in (1, 2, 5):
        trainer = quiet_trainer(tmp_path)
        trainer.validate(
            lightning(model, tmp_path), DataLoader(data, batch_size, collate_fn=collate_rectangles), verbose=False
        )
        assert trainer.callback_metrics["validation/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_labels_are_checked_before_a_batch_moves_to_a_gpu(tmp_path, monkeypatch):
    module = lightning(small_model("test_resnet_cls"), tmp_path)
    batch = collate_rectangles([Rectangles(2)[0], Rectangles(2)[1]])
    batch["targets/cls"] = torch.tensor([0, 99])
    monkeypatch.setattr(type(module), "device", torch.device("cuda"))
    with pytest.raises(BrickInputError, match="targets/cls, row 1: expected classes"):
        module.on_before_batch_transfer(batch, 0)
