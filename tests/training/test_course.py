import pytest

from brickyard.training.course import Course


@pytest.mark.parametrize(
    ("steps", "every", "interval", "all_steps"),
    [(20000, 1000, 1000, 20000), (1500, 1000, 750, 1500), (10, 1000, 10, 10), (20011, 1000, 953, 20013), (1, 1, 1, 1)],
)
def test_the_last_step_ends_with_a_validation(steps: int, every: int, interval: int, all_steps: int) -> None:
    course = Course(steps=steps, every=every)
    assert (course.interval, course.all_steps) == (interval, all_steps)
    assert course.interval * course.validations == course.all_steps
