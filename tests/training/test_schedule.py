from math import cos, pi, tanh
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from brickyard import BrickInputError, UnknownNameError, parameter_groups
from brickyard.data.batches import TrainingOrder
from brickyard.training.config import Sched, TrainingConfig
from brickyard.training.fit import fit
from brickyard.training.schedule import optimizer_and_schedule
from tests.runs import Rectangles, collate_rectangles, small_model, without_batch_statistics
from tests.training.test_fit import same_weights


def rates(sched: Sched, steps: int, warmup: float) -> list[float]:
    """The learning rate of each step, for a peak of 1."""
    config = TrainingConfig(steps=steps, every=steps, lr=1.0, warmup=warmup, sched=sched)
    configured = optimizer_and_schedule(small_model("test_resnet_cls"), config, is_mixed=False)
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_learning_rate_warms_up_then_decays_along_a_cosine_scaled_by_layer() -> None:
    model = small_model()
    config = TrainingConfig(steps=100, every=100, lr=0.1, warmup=0.1, layer_decay=0.5, weight_decay=0.2)
    configured = optimizer_and_schedule(model, config, is_mixed=False)
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    fastest = max(range(len(optimizer.param_groups)), key=lambda index: optimizer.param_groups[index]["lr"])
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    heads = [rate[fastest] for rate in rates]
    assert heads[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert heads[10] == pytest.approx(0.1)
    assert heads[55] == pytest.approx(0.05)  # half of the decay
    assert 0 < heads[99] < 1e-4
    assert min(rates[10]) < 0.1 * 0.5
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.2}


@pytest.mark.parametrize(
    ("sched", "expected"),
    [
        ("cosine", lambda t: (1 + cos(pi * t)) / 2),
        ("poly", lambda t: 1 - t),
        ("tanh", lambda t: (1 - tanh(-7 * (1 - t) + 3 * t)) / 2),
        ("step", lambda t: 0.1 ** (round(t * 90) // 27)),
        ("constant", lambda t: 1.0),
    ],
)
def test_each_schedule_follows_its_formula_after_the_warmup(sched: Sched, expected) -> None:
    found = rates(sched, 100, 0.1)
    assert found[:10] == [(step + 1) / 10 for step in range(10)]
    assert found[10:] == pytest.approx([expected(step / 90) for step in range(90)], abs=1e-9)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
def test_the_default_schedule_and_optimizer_are_to_the_bit_a_cosine_and_the_fused_adamw_of_torch(warmup: float) -> None:
    warmup_steps = round(60 * warmup)
    decay = [(1 + cos(pi * step / (60 - warmup_steps))) / 2 for step in range(60 - warmup_steps)]
    assert rates("cosine", 60, warmup) == [*((step + 1) / max(1, warmup_steps) for step in range(warmup_steps)), *decay]
    model = small_model("test_resnet_cls")
    optimizer = optimizer_and_schedule(model, TrainingConfig(warmup=0.0), is_mixed=False)["optimizer"]
    expected = AdamW(parameter_groups(model, lr=1e-3, weight_decay=0.05), lr=1e-3, weight_decay=0.05, fused=True)
    assert type(optimizer) is AdamW
    assert optimizer.defaults == expected.defaults
    settings = [
        [{name: value for name, value in group.items() if name not in ("params", "initial_lr")} for group in groups]
        for groups in (optimizer.param_groups, expected.param_groups)
    ]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("opt", ["sgd", "lamb", "lion", "rmsprop", "adafactor"])
def test_optimizers_of_timm_train(opt: str, tmp_path: Path) -> None:
    config = TrainingConfig(steps=1, batch_size=2, every=1, opt=opt, lr=1e-2)
    model = small_model("test_resnet_cls")
    fit(model, Rectangles(2), Rectangles(1), tmp_path, config)
    assert not same_weights(model, small_model("test_resnet_cls"))


@pytest.mark.parametrize(("opt", "near"), [("adamx", "adamw"), ("sdg", "sgd"), ("adahessian", "")])
def test_an_unknown_optimizer_is_an_error_with_the_nearest_name_and_no_run_is_started(
    opt: str, near: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match=f"Unknown optimizer '{opt}'.*{near}"):
        fit(small_model("test_resnet_cls"), Rectangles(2), Rectangles(1), tmp_path / "run", TrainingConfig(opt=opt))
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_cannot_run_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("CUDA required")

    monkeypatch.setattr("brickyard.training.schedule.create_optimizer_v2", fail)
    with pytest.raises(BrickInputError, match="opt: expected an optimizer that runs here, found 'fusedadam': CUDA"):
        optimizer_and_schedule(small_model("test_resnet_cls"), TrainingConfig(opt="fusedadam"), is_mixed=False)


def test_an_unknown_schedule_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cosine'"):
        TrainingConfig(sched="cosin")  # type: ignore[arg-type]


def test_accumulated_batches_give_the_weights_of_a_loop_and_of_one_large_batch(tmp_path: Path) -> None:
    data = Rectangles(8)
    options = {"steps": 3, "every": 3, "save_every": 1, "opt": "momentum", "lr": 0.05, "warmup": 0.0, "weight_decay": 0}
    options |= {"sched": "constant", "clip": float("inf")}
    trained = {}
    for size, accumulate in ((2, 2), (4, 1)):
        model = trained[size] = without_batch_statistics(small_model("test_resnet_cls"))
        config = TrainingConfig(batch_size=size, accumulate=accumulate, **options)
        fit(model, data, Rectangles(1), tmp_path / f"{size}", config)
    loop = without_batch_statistics(small_model("test_resnet_cls")).train()
    optimizer = torch.optim.SGD(loop.parameters(), lr=0.05, momentum=0.9)
    for number, draws in enumerate(TrainingOrder(data, 2, 6)):
        batch = collate_rectangles([data[draw.item] for draw in draws])
        logits = loop(batch, outputs=["cls/logits"])["cls/logits"]
        (cross_entropy(logits, batch["targets/cls"]) / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    before = dict(small_model("test_resnet_cls").named_parameters())
    for model in trained.values():
        for name, value in model.named_parameters():
            torch.testing.assert_close(value, dict(loop.named_parameters())[name], atol=1e-5, rtol=1e-4)
        assert any(not torch.allclose(value, before[name], atol=1e-3) for name, value in model.named_parameters())
