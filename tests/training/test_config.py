import pytest

from brickyard import BrickInputError
from brickyard.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("steps", "every", "interval", "all_steps"),
    [(20000, 1000, 1000, 20000), (1500, 1000, 750, 1500), (10, 1000, 10, 10), (20011, 1000, 953, 20013), (1, 1, 1, 1)],
)
def test_the_last_step_ends_with_a_validation(steps: int, every: int, interval: int, all_steps: int) -> None:
    course = TrainingConfig(steps=steps, every=every)
    assert (course.interval, course.all_steps) == (interval, all_steps)
    assert course.interval * course.validations == course.all_steps


@pytest.mark.parametrize("number", ["steps", "batch_size", "every", "save_every"])
def test_none_of_something_is_refused(number: str) -> None:
    with pytest.raises(BrickInputError, match=f"{number}: expected 1 or more, found 0"):
        TrainingConfig(**{number: 0})


def test_a_warmup_is_a_part_of_the_steps() -> None:
    with pytest.raises(BrickInputError, match="warmup"):
        TrainingConfig(warmup=500)


def test_a_loss_is_best_when_small_and_a_metric_when_large_unless_told() -> None:
    assert TrainingConfig().best == "min"
    assert TrainingConfig(monitor="validation/seg/MeanIoU").best == "max"
    assert TrainingConfig(monitor="validation/depth/RMSE", mode="min").best == "min"
