import pytest

from brickyard import BrickInputError
from brickyard.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("steps", "every", "val_interval", "total_steps"),
    [(20000, 1000, 1000, 20000), (1500, 1000, 750, 1500), (10, 1000, 10, 10), (20011, 1000, 953, 20013), (1, 1, 1, 1)],
)
def test_a_validation_follows_the_last_step(steps: int, every: int, val_interval: int, total_steps: int) -> None:
    config = TrainingConfig(steps=steps, every=every)
    assert (config.val_interval, config.total_steps) == (val_interval, total_steps)
    assert config.val_interval * config.num_validations == config.total_steps


@pytest.mark.parametrize("number", ["steps", "batch_size", "accumulate", "every", "save_every", "patience"])
def test_zero_is_refused(number: str) -> None:
    with pytest.raises(BrickInputError, match=f"{number}: expected 1 or more, found 0"):
        TrainingConfig(**{number: 0})


def test_the_warmup_is_a_fraction_of_the_steps() -> None:
    with pytest.raises(BrickInputError, match="warmup"):
        TrainingConfig(warmup=500)
