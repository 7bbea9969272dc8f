import numpy as np
import pytest

from brickyard.tasks.registry import get_task
from brickyard.tasks.selection import Selection

SCORES = np.array([0.9, 0.2, 0.5, 0.5, 0.1])
CLASSES = np.array([0, 1, 1, 2, 0])


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [0, 1, 2, 3, 4]),
        (Selection(threshold=0.5), [0, 2, 3]),
        (Selection(topk=2), [0, 2]),
        (Selection(classes=(1,)), [1, 2]),
        (Selection(topk=1, classes=(1, 2)), [2]),
        (Selection(threshold=0.3, topk=9, classes=(1,)), [2]),
        (Selection(classes=()), []),
        (Selection(threshold=1.0), []),
    ],
)
def test_candidates_are_kept_within_the_limits(selection, expected):
    assert np.flatnonzero(selection.mask(SCORES, CLASSES)).tolist() == expected


def test_detections_that_are_not_selected_become_padding():
    values = {"boxes": np.zeros((4, 4)), "scores": np.array([0.9, 0.6, 0.4, 0.0]), "labels": np.array([1, 0, 1, -1])}
    selected = get_task("det").select(values, Selection(topk=1, classes=(1,)))
    assert selected["labels"].tolist() == [1, -1, -1, -1]
    assert [result["score"] for result in get_task("det").results(selected, ["a", "b"])] == [0.9]


def test_pixels_of_a_class_that_is_not_selected_are_minus_one():
    values = {"class_prediction": np.array([[0, 0, 0], [1, 1, 2]])}
    selected = get_task("seg").select(values, Selection(threshold=0.9, topk=1, classes=(1, 2)))
    assert selected["class_prediction"].tolist() == [[-1, -1, -1], [1, 1, -1]]
    assert get_task("seg").results(selected, list("abc")) == [{"label": "b", "class": 1, "share": pytest.approx(2 / 6)}]


def test_keypoints_that_are_not_selected_are_no_results():
    values = {"keypoints": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "scores": np.array([0.2, 0.9, 0.5])}
    selected = get_task("kpt").select(values, Selection(threshold=0.4))
    assert [result["label"] for result in get_task("kpt").results(selected, list("abc"))] == ["b", "c"]
