import pytest
import torch

from brickyard.errors import BrickInputError
from brickyard.parts.detection.targets import PadBoxes

IMAGE = torch.zeros(2, 3, 60, 80, dtype=torch.uint8)


def target(*boxes, labels=None):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels),
    }


def test_boxes_of_all_images_are_padded_to_one_tensor():
    boxes, labels = PadBoxes(5)([target([1, 2, 3, 4], [5, 6, 70, 50], labels=[4, 0]), target()], IMAGE)
    assert boxes.shape == (2, 16, 4)
    assert boxes.dtype == torch.float32
    assert boxes[0, :2].tolist() == [[1, 2, 3, 4], [5, 6, 70, 50]]
    assert labels.dtype == torch.int64
    assert labels[0].tolist() == [4, 0, *[-1] * 14]
    assert labels[1].tolist() == [-1] * 16
    assert not boxes[1].any()


@pytest.mark.parametrize(("count", "size"), [(0, 16), (16, 16), (17, 32), (33, 64), (64, 64)])
def test_padded_sizes_are_powers_of_two(count, size):
    assert PadBoxes(1)([target(*[[1, 2, 3, 4]] * count), target()], IMAGE)[0].shape[1] == size


def test_padded_targets_are_returned_unchanged():
    padded = PadBoxes(5)([target([1, 2, 3, 4]), target()], IMAGE)
    again = PadBoxes(5)({"boxes": padded[0], "labels": padded[1]}, IMAGE)
    assert again[0] is padded[0]
    assert again[1] is padded[1]


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        (target([1, 2, 3, 4], [30, 2, 20, 4]), r"image 1, box 1: expected x1 < x2.*found \[30.0, 2.0, 20.0, 4.0\]"),
        (target([1, 2, 1, 4]), r"image 1, box 0: expected x1 < x2"),
        (target([1, 2, float("nan"), 4]), r"image 1, box 0: expected finite"),
        (target([1, 2, 3, 4], [10, 10, 90, 20]), r"image 1, box 1: expected boxes inside the image of 80x60"),
        (target([1, -5, 3, 4]), r"image 1, box 0: expected boxes inside"),
        (target([1, 2, 3, 4], labels=[5]), r"image 1, box 0: expected labels in \[0, 5\), found 5"),
        (target([1, 2, 3, 4], labels=[-1]), r"image 1, box 0: expected labels in \[0, 5\), found -1"),
        (
            {"boxes": torch.zeros(3, 5), "labels": torch.zeros(3).long()},
            r"image 1: expected boxes \(M, 4\).*\(3, 5\)",
        ),
        ({"boxes": torch.zeros(0), "labels": torch.zeros(0).long()}, r"image 1: expected boxes \(M, 4\).*\(0,\)"),
        ({"boxes": torch.zeros(3, 4), "labels": torch.zeros(2).long()}, r"image 1: expected labels \(3,\).*\(2,\)"),
        ({"boxes": torch.zeros(1, 4), "labels": torch.zeros(1)}, r"image 1: expected labels of an integer dtype"),
        ({"boxes": torch.zeros(1, 4)}, r"image 1: expected a dictionary.*no \['labels'\]"),
    ],
)
def test_invalid_targets_are_refused_with_the_index_of_the_image(invalid, message):
    with pytest.raises(BrickInputError, match=f"^PadBoxes, {message}"):
        PadBoxes(5)([target([1, 2, 3, 4], [2, 2, 5, 5]), invalid], IMAGE)


def test_rounding_errors_at_the_edge_are_accepted():
    PadBoxes(5)([target([-0.4, 0, 80.6, 60.2]), target()], IMAGE)


def test_a_number_of_targets_other_than_the_batch_size_is_refused():
    with pytest.raises(BrickInputError, match="expected targets of 2 images, found 1"):
        PadBoxes(5)([target()], IMAGE)
