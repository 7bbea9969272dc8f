"""A training with each option is interrupted and resumed, and gives the results of an uninterrupted one."""

from pathlib import Path
from typing import Any

import pytest
from torchvision.transforms import v2

from brickyard import BrickCollection
from brickyard.training.config import TrainingConfig
from brickyard.training.fit import fit
from tests.runs import Rectangles, small_model
from tests.training.test_fit import Interrupted, Interrupting, rows, same_weights

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "momentum": {"opt": "sgd", "sched": "poly"},
    "lamb": {"opt": "lamb", "sched": "step"},
    "accumulate": {"accumulate": 3, "ema": 0.9},
    "unfreeze before": {"unfreeze": ("backbone@3",)},
    "unfreeze at": {"unfreeze": ("backbone@5",), "ema": 0.5},  # of the last checkpoint
    "unfreeze after": {"unfreeze": ("backbone@7",)},
    "label smoothing": {"label_smoothing": 0.1},
    "transform": {"transform": v2.RandomHorizontalFlip()},
    "patience": {"patience": 2, "mode": "max"},  # of a loss that falls: the first validation is the best
}


def train(out: Path, options: dict[str, Any], *, kill_at: int | None = None, resume: bool = False) -> BrickCollection:
    transform = options.get("transform")
    options = {name: value for name, value in options.items() if name != "transform"}
    config = TrainingConfig(steps=8, batch_size=2, every=2, save_every=1, lr=1e-2, **options)
    model = small_model("test_resnet_cls", drop_path_rate=0.3)
    data = Interrupting(7, noisy=True, kill_at=kill_at)
    fit(model, data, Rectangles(3), out, config, resume=resume, transform=transform)
    return model


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_resumed_training_gives_the_results_of_an_uninterrupted_one(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = train(whole, options)
    with pytest.raises(Interrupted):
        train(resumed, options, kill_at=11 + ("transform" in options))  # it is tried on one image
    assert (resumed / "log.jsonl").read_bytes() != (whole / "log.jsonl").read_bytes()
    model = train(resumed, options, resume=True)
    assert (resumed / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    assert same_weights(model, expected)
    train(resumed, options, resume=True)
    assert (resumed / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


def test_a_training_stops_after_the_validations_without_a_better_model(tmp_path: Path) -> None:
    received = []
    config = TrainingConfig(steps=40, batch_size=2, every=1, patience=3, monitor="cls/Accuracy", lr=1e-9)
    model = small_model("test_resnet_cls")
    fit(model, Rectangles(4), Rectangles(3), tmp_path, config, on_validation=received.append)
    scores = [row["validation/cls/Accuracy"] for row in rows(tmp_path, "validation/")]
    best = scores.index(max(scores))
    assert len(scores) == best + 1 + 3 < 40
    assert (received[-1].step, received[-1].best_step, received[-1].total_steps) == (len(scores), best + 1, 40)
