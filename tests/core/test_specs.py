import pytest

from brickyard import BrickInputError, HeadInfo
from brickyard.core.specs import check_class_names


@pytest.mark.parametrize(("trained", "stored"), [(None, None), (True, None), (False, False)])
def test_only_a_head_that_was_not_trained_is_stored_as_such(trained: bool | None, stored: bool | None) -> None:
    head = HeadInfo("seg", "fpn", ("a", "b"), (96, 64), trained=trained)
    values = head.to_json()
    assert values.get("trained") is stored
    assert HeadInfo.from_json(values) == HeadInfo("seg", "fpn", ("a", "b"), (96, 64), trained=stored)


@pytest.mark.parametrize("labels", [["a", ""], ["a", "  "], ["a", "\t"], ["a\nb", "c"], ["a", 3], ["a", "a"], "ab", []])
def test_class_names_that_tables_and_metrics_cannot_show_are_refused(labels):
    with pytest.raises(BrickInputError, match="labels of 'seg'"):
        check_class_names(labels, "'seg'")
    assert check_class_names(["car [small]", "très\xa0petit"], "'seg'") == ("car [small]", "très\xa0petit")
