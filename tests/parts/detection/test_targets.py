import pytest
import torch

from brickyard.parts.detection.targets import PadBoxes, ignored_anchors, ignored_classes, is_ignored

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


def test_boxes_to_ignore_have_a_label_below_minus_1_also_if_padded():
    ignore = torch.tensor([False, True, True])
    targets = [{"boxes": torch.tensor([[1.0, 2, 3, 4]] * 3), "labels": torch.tensor([2, 0, 4]), "ignore": ignore}]
    boxes, labels = PadBoxes(5)(targets, IMAGE[:1])
    assert labels[0, :4].tolist() == [2, -2, -6, -1]
    assert is_ignored(labels)[0, :4].tolist() == [False, True, True, False]
    assert ignored_classes(labels)[0, 1:3].tolist() == [0, 4]
    padded = {"boxes": boxes[:, :3], "labels": targets[0]["labels"][None], "ignore": ignore[None]}
    assert torch.equal(PadBoxes(5)(padded, IMAGE[:1])[1], labels[:, :3])


def test_an_anchor_is_ignored_if_half_its_area_is_in_a_box_to_ignore():
    anchors = torch.tensor([[0.0, 0, 8, 8], [6, 0, 14, 8], [5, 0, 13, 8], [0, 0, 40, 40]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40]]])
    assert ignored_anchors(anchors, boxes, torch.tensor([[-2, 1]])).tolist() == [[True, True, True, False]]
    assert not ignored_anchors(anchors, boxes, torch.tensor([[0, -1]])).any()
