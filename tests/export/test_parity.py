import numpy as np
import pytest
import torch

from brickyard.export.parity import differences


def detections(boxes=((1.0, 2, 3, 4), (5, 6, 7, 8)), scores=(0.9, 0.8), labels=(1, 0)) -> dict[str, np.ndarray]:
    return {
        "det/boxes": np.array([boxes], dtype=np.float32),
        "det/scores": np.array([scores], dtype=np.float32),
        "det/labels": np.array([labels]),
    }


def test_equal_outputs_do_not_differ():
    outputs = {"logits": np.arange(6.0).reshape(2, 3), "classes": np.array([1, 2]), **detections()}
    assert differences(outputs, {name: array.copy() for name, array in outputs.items()}) == []


@pytest.mark.parametrize(("difference", "count"), [(5e-5, 0), (5e-4, 1)])
def test_floats_may_differ_by_1e_4(difference, count):
    assert len(differences({"a": np.ones(3)}, {"a": np.ones(3) + difference})) == count


def test_large_floats_may_differ_in_proportion_to_their_size():
    assert differences({"a": np.array([1000.0, 0])}, {"a": np.array([1000.05, 0.05])}) == []


def test_integers_must_be_equal_but_for_ties():
    expected = np.zeros(10_000, dtype=np.int64)
    found = expected.copy()
    found[:5] = 1
    assert differences({"a": expected}, {"a": found}) == []
    found[:50] = 1
    assert differences({"a": expected}, {"a": found}) == ["'a': 0.50% of the values differ"]


def test_missing_outputs_and_different_shapes_are_reported():
    assert differences({"a": np.ones(3), "b": np.ones(2)}, {"b": np.ones(3)}) == [
        "'a' is missing",
        "'b': expected the shape (2,), found (3,)",
    ]


def test_detections_may_swap():
    swapped = detections(boxes=((5, 6, 7, 8), (1, 2, 3, 4)), scores=(0.8, 0.9), labels=(0, 1))
    assert differences(detections(), swapped) == []


@pytest.mark.parametrize(
    "found",
    [
        detections(boxes=((1.2, 2, 3, 4), (5, 6, 7, 8))),
        detections(scores=(0.91, 0.8)),
        detections(labels=(0, 0)),
        detections(labels=(1, -1)),
    ],
)
def test_a_different_box_score_or_label_is_reported(found):
    assert any("lacks the detection" in problem for problem in differences(detections(), found))


def test_an_additional_box_is_reported():
    expected = detections(labels=(1, -1), scores=(0.9, 0))
    assert any("1 more detection" in problem for problem in differences(expected, detections()))


def objects(**options) -> dict[str, np.ndarray]:
    """Detections, each with a mask of 100 cells and two key points."""
    rng = np.random.default_rng(0)
    others = {"det/masks": rng.random((1, 2, 10, 10)), "det/keypoints": rng.random((1, 2, 2, 3)) * 9}
    return {**detections(**options), **others}


def test_masks_and_key_points_may_swap_with_their_boxes():
    swapped = objects(boxes=((5, 6, 7, 8), (1, 2, 3, 4)), scores=(0.8, 0.9), labels=(0, 1))
    for name in ("det/masks", "det/keypoints"):
        swapped[name] = swapped[name][:, ::-1]
    assert differences(objects(), swapped) == []
    assert differences(objects(), {**objects(), "det/masks": swapped["det/masks"]}) != []


@pytest.mark.parametrize(
    ("name", "change", "count"),
    [
        ("masks", np.full((10, 10), 5e-4), 0),
        ("masks", np.eye(10) * [[0.3], *[[0]] * 9], 0),  # a cell at the edge of the box
        ("masks", np.eye(10) * 0.3, 1),
        ("keypoints", np.full((2, 3), 5e-4), 0),
        ("keypoints", np.array([[0.0, 0.2, 0], [0, 0, 0]]), 1),
        ("keypoints", np.array([[0.0, 0, 0], [0, 0, 0.01]]), 1),
    ],
)
def test_another_mask_or_key_point_is_reported_with_its_box(name, change, count):
    found = objects()
    found[f"det/{name}"] = found[f"det/{name}"] + np.stack([np.zeros_like(change), change])
    problems = differences(objects(), found)
    assert len(problems) == count
    assert all(f"image 0 has other {name} in the box [5.0, 6.0, 7.0, 8.0]" in problem for problem in problems)


def test_absent_masks_are_reported():
    found = {name: array for name, array in objects().items() if name != "det/masks"}
    assert differences(objects(), found) == ["'det/masks' is missing"]


def test_boxes_without_labels_are_compared_in_order():
    expected = {"det/boxes": np.zeros((1, 2, 4), np.float32), "det/scores": np.ones((1, 2), np.float32)}
    assert differences(expected, expected) == []
    found = {"det/boxes": expected["det/boxes"] + 9, "det/scores": expected["det/scores"] * 0}
    assert [problem.partition(":")[0] for problem in differences(expected, found)] == ["'det/boxes'", "'det/scores'"]


def test_the_tolerance_follows_the_precision_of_the_model():
    expected, found = {"logits": np.array([1.0, 2.0])}, {"logits": np.array([1.0, 2.005])}
    assert differences(expected, found) == ["'logits': values differ by up to 0.005, tolerance 0.0002"]
    assert differences(expected, found, 10 * torch.finfo(torch.float16).eps) == []
    assert differences(expected, {"logits": np.array([1.0, 2.5])}, 10 * torch.finfo(torch.float16).eps) != []
