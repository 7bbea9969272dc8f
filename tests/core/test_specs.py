import pytest

from brickyard import HeadInfo


@pytest.mark.parametrize(("trained", "stored"), [(None, None), (True, None), (False, False)])
def test_only_a_head_that_was_not_trained_is_stored_as_such(trained: bool | None, stored: bool | None) -> None:
    head = HeadInfo("seg", "fpn", ("a", "b"), (96, 64), trained=trained)
    values = head.to_json()
    assert values.get("trained") is stored
    assert HeadInfo.from_json(values) == HeadInfo("seg", "fpn", ("a", "b"), (96, 64), trained=stored)
