"""Checks of labels by kind."""

import pytest
import torch

from brickyard import LabelKind
from brickyard.data.label_checks import LabelContext
from brickyard.data.label_kinds import KIND_RULES
from brickyard.errors import BrickInputError

INT64 = torch.int64


def check(label, kind=LabelKind.BOXES, labelled=None, num_classes=5):
    KIND_RULES[kind].check(label, LabelContext("targets/det", 2, (60, 80), num_classes, labelled))


def target(*boxes, labels=None):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64),
    }


VALID = {
    LabelKind.CLASS_INDEX: torch.tensor([0, 4]),
    LabelKind.MULTI_HOT: torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]),
    LabelKind.MASK: torch.full((2, 60, 80), 255),
    LabelKind.BOXES: [target([1, 2, 3, 4]), target()],
    LabelKind.INSTANCE_MASKS: [
        {**target(*[[1, 2, 3, 4]] * count), "masks": torch.zeros(count, 60, 80, dtype=torch.uint8)} for count in (1, 0)
    ],
    LabelKind.INSTANCE_POINTS: [
        {**target(*[[1, 2, 3, 4]] * count), "keypoints": torch.zeros(count, 5, 3)} for count in (1, 0)
    ],
    LabelKind.POINTS: torch.zeros(2, 5, 3),
    LabelKind.DENSE_MAP: torch.rand(2, 60, 80),
    LabelKind.TEXT: ["a", ""],
    LabelKind.ID: torch.tensor([-3, 10**9]),
    LabelKind.METADATA: torch.tensor([1.5, 2.0]),
}


def test_every_kind_accepts_a_valid_label():
    assert set(VALID) == set(LabelKind)
    for kind, label in VALID.items():
        check(label, kind)


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        (LabelKind.CLASS_INDEX, torch.tensor([0, 5]), r"row 1: expected classes in \[0, 5\), found \[5\]"),
        (LabelKind.CLASS_INDEX, torch.tensor([0, -1]), r"row 1: expected classes in \[0, 5\), found \[-1\]"),
        (
            LabelKind.CLASS_INDEX,
            torch.tensor([0.0, 1.0]),
            r"expected a tensor \(B,\) = \(2,\) of int64, found.*float32",
        ),
        (LabelKind.CLASS_INDEX, torch.tensor([0, 1]).int(), r"of int64, found \(2,\) of int32.*\.long\(\)"),
        (LabelKind.CLASS_INDEX, torch.tensor([[0], [1]]), r"expected a tensor \(B,\) = \(2,\).*found \(2, 1\)"),
        (LabelKind.CLASS_INDEX, [0, 1], "expected a tensor.*found a list"),
        (LabelKind.MULTI_HOT, torch.zeros(2, 4), r"\(B, K\) = \(2, 5\), found \(2, 4\)"),
        (LabelKind.MULTI_HOT, torch.full((2, 5), 2), r"row 0: expected 0 or 1, found \[2\]"),
        (LabelKind.MASK, torch.full((2, 60, 80), 7), r"row 0: expected classes in \[0, 5\) or 255, found \[7\]"),
        (LabelKind.MASK, torch.full((2, 60, 80), -1), r"row 0: expected classes in \[0, 5\) or 255, found \[-1\]"),
        (LabelKind.MASK, torch.zeros(2, 80, 60).long(), r"\(B, H, W\) = \(2, 60, 80\) of int64, found \(2, 80, 60\)"),
        (LabelKind.MASK, torch.zeros(2, 60, 80), "of int64, found.*of float32"),
        (LabelKind.POINTS, torch.zeros(2, 4, 3), r"\(2, 5, 3\), found \(2, 4, 3\)"),
        (LabelKind.POINTS, torch.zeros(2, 5, 2), r"\(2, 5, 3\), found \(2, 5, 2\)"),
        (LabelKind.POINTS, torch.full((2, 5, 3), float("inf")), r"row 0: expected finite coordinates, found \[inf\]"),
        (LabelKind.DENSE_MAP, torch.rand(2, 60, 79), r"\(2, 60, 80\), found \(2, 60, 79\)"),
        (LabelKind.DENSE_MAP, torch.zeros(2, 60, 80).long(), "floating-point dtype, found.*int64"),
        (LabelKind.TEXT, ["a"], "expected a list of B = 2 strings"),
        (LabelKind.TEXT, "ab", "expected a list of B = 2 strings"),
        (LabelKind.ID, torch.tensor([1.0, 2.0]), "of int64, found"),
        (LabelKind.BOXES, torch.zeros(2, 3, 4), "expected a list with the boxes of each image, found"),
        (LabelKind.BOXES, [torch.zeros(1, 4)] * 2, "row 0: expected a dictionary"),
        (LabelKind.BOXES, {"boxes": torch.zeros(2, 3, 4), "labels": torch.zeros(2, 3)}, "labels of int64"),
        (
            LabelKind.BOXES,
            [{**target([1, 2, 3, 4]), "ignore": torch.tensor([0])}, target()],
            r'row 0: expected "ignore" \(1,\) bool, found \(1,\) of int64',
        ),
    ],
)
def test_a_label_of_another_type_shape_or_range_is_refused(kind, label, message):
    with pytest.raises(BrickInputError, match=f"^targets/det.*{message}"):
        check(label, kind)


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        (LabelKind.INSTANCE_MASKS, {}, r'"masks" \(M, H, W\) = \(1, 60, 80\), found a NoneType'),
        (LabelKind.INSTANCE_MASKS, {"masks": torch.zeros(1, 30, 40).bool()}, r'"masks" .*found \(1, 30, 40\)'),
        (LabelKind.INSTANCE_MASKS, {"masks": torch.zeros(2, 60, 80).bool()}, r'"masks" .*found \(2, 60, 80\)'),
        (LabelKind.INSTANCE_MASKS, {"masks": torch.zeros(1, 60, 80)}, r'"masks" of an integer or bool dtype'),
        (LabelKind.INSTANCE_POINTS, {}, r'"keypoints" \(1, K, 3\) of x, y and visibility, found a NoneType'),
        (LabelKind.INSTANCE_POINTS, {"keypoints": torch.zeros(2, 5, 3)}, r"found \(2, 5, 3\)"),
        (LabelKind.INSTANCE_POINTS, {"keypoints": torch.zeros(1, 5, 2)}, r"found \(1, 5, 2\)"),
        (LabelKind.INSTANCE_POINTS, {"keypoints": torch.full((1, 5, 3), torch.nan)}, "finite coordinates"),
    ],
)
def test_masks_and_key_points_of_instances_are_checked_where_a_row_is_labelled(kind, entry, message):
    label = [VALID[kind][1], {**target([1, 2, 3, 4]), **entry}]
    with pytest.raises(BrickInputError, match=f"^targets/det, row 1: expected .*{message}"):
        check(label, kind)
    check(label, kind, torch.tensor([True, False]))


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [(LabelKind.INSTANCE_MASKS, "masks", (60, 80)), (LabelKind.INSTANCE_POINTS, "keypoints", (5, 3))],
)
def test_masks_and_key_points_of_padded_boxes_are_padded_too(kind, name, shape):
    padded = {"boxes": torch.tensor([[[1.0, 2, 3, 4]] * 3] * 2), "labels": torch.tensor([[0, -1, -1], [4, 2, -1]])}
    check({**padded, name: torch.zeros(2, 3, *shape, dtype=torch.int64)}, kind)
    with pytest.raises(BrickInputError, match=f'expected "{name}"'):
        check({**padded, name: torch.zeros(2, 2, *shape, dtype=torch.int64)}, kind)


def test_values_of_unlabelled_rows_are_not_checked():
    labelled = torch.tensor([True, False])
    check(torch.tensor([0, -7]), LabelKind.CLASS_INDEX, labelled)
    check([target(), target([30, 2, 20, 4], labels=[9])], LabelKind.BOXES, labelled)
    with pytest.raises(BrickInputError):
        check(torch.tensor([0, -7]), LabelKind.CLASS_INDEX, ~labelled)


def test_a_class_out_of_range_in_padded_boxes_is_refused():
    padded = {"boxes": torch.tensor([[[1.0, 2, 3, 4]] * 2] * 2), "labels": torch.tensor([[0, -1], [7, -2]])}
    with pytest.raises(BrickInputError, match=r"row 1, box 0: expected a class in \[0, 5\), found 7"):
        check(padded)
    padded["labels"] = torch.tensor([[0, -1], [4, -7]])
    with pytest.raises(BrickInputError, match=r"row 1, box 1: expected a class in \[0, 5\), found 5"):
        check(padded)


@pytest.mark.parametrize("boxes", [[[0.1, 0.2, 0.5, 0.6]], [[0, 0, 1, 1], [0.5, 0.25, 0.75, 1.0]]])
def test_boxes_relative_to_the_image_are_refused(boxes):
    with pytest.raises(BrickInputError, match=r"expected boxes in pixels, found all.*in \[0, 1\]. Multiply"):
        check([target(), target(*boxes)])
    check([target([10, 10, 20, 20]), target(*boxes)])  # one small box among others is possible


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        (target([1, 2, 3, 4], [30, 2, 20, 4]), r"row 1, box 1: expected x1 < x2.*found \[30.0, 2.0, 20.0, 4.0\]"),
        (target([1, 2, 1, 4]), r"row 1, box 0: expected x1 < x2"),
        (target([1, 2, float("nan"), 4]), r"row 1, box 0: expected finite"),
        (target([1, 2, 3, 4], [10, 10, 90, 20]), r"row 1, box 1: expected a box inside the image of 80x60"),
        (target([1, -5, 3, 4]), r"row 1, box 0: expected a box inside"),
        (target([1, 2, 3, 4], labels=[5]), r"row 1, box 0: expected a class in \[0, 5\), found 5"),
        (target([1, 2, 3, 4], labels=[-1]), r"row 1, box 0: expected a class in \[0, 5\), found -1"),
        (
            {"boxes": torch.zeros(3, 5), "labels": torch.zeros(3).long()},
            r"row 1: expected boxes \(M, 4\).*\(3, 5\)",
        ),
        ({"boxes": torch.zeros(0), "labels": torch.zeros(0).long()}, r"row 1: expected boxes \(M, 4\).*\(0,\)"),
        ({"boxes": torch.zeros(3, 4), "labels": torch.zeros(2).long()}, r"row 1: expected labels \(3,\).*\(2,\)"),
        ({"boxes": torch.zeros(1, 4), "labels": torch.zeros(1)}, r"row 1: expected labels of an integer dtype"),
        (
            {"boxes": torch.zeros(1, 4, dtype=torch.complex64), "labels": torch.zeros(1).long()},
            r"row 1: expected boxes \(M, 4\) of a real dtype, found .* complex64",
        ),
        ({"boxes": torch.zeros(1, 4)}, r"row 1: expected a dictionary.*no \['labels'\]"),
    ],
)
def test_invalid_targets_are_refused_with_the_index_of_the_image(invalid, message):
    with pytest.raises(BrickInputError, match=f"^targets/det, {message}"):
        check([target([1, 2, 3, 4], [2, 2, 5, 5]), invalid])


def test_rounding_errors_at_the_edge_are_accepted():
    check([target([-0.4, 0, 80.6, 60.2]), target()])


def test_a_number_of_targets_other_than_the_batch_size_is_refused():
    with pytest.raises(BrickInputError, match="expected boxes of 2 images, found 1"):
        check([target()])
