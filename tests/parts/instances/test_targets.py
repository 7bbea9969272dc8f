import pytest
import torch

from brickyard import BrickInputError
from brickyard.parts.instances.targets import PadInstances, select_positives

IMAGE = torch.zeros(2, 3, 6, 8)


def target(count, labels=None):
    torch.manual_seed(count)
    return {
        "boxes": torch.rand(count, 4),
        "labels": torch.arange(count) if labels is None else torch.tensor(labels),
        "masks": torch.randint(0, 2, (count, 6, 8), dtype=torch.uint8),
        "keypoints": torch.rand(count, 5, 3),
    }


def test_entries_are_padded_with_their_boxes():
    targets = [target(2), target(0)]
    boxes, labels, masks, keypoints = PadInstances(3, ["masks", "keypoints"])(targets, IMAGE)
    assert torch.equal(boxes[0, :2], targets[0]["boxes"])
    assert labels.tolist() == [[0, 1, *[-1] * 14], [-1] * 16]
    assert masks.shape == (2, 16, 6, 8)
    assert masks.dtype == torch.uint8
    assert torch.equal(masks[0, :2], targets[0]["masks"])
    assert not masks[0, 2:].any()
    assert not masks[1].any()
    assert keypoints.shape == (2, 16, 5, 3)
    assert torch.equal(keypoints[0, :2], targets[0]["keypoints"])
    assert not keypoints[1].any()


def test_padded_targets_are_returned_unchanged():
    padded = dict(zip(["boxes", "labels", "masks"], PadInstances(3, ["masks"])([target(1)] * 2, IMAGE), strict=True))
    again = PadInstances(3, ["masks"])(padded, IMAGE)
    assert all(value is expected for value, expected in zip(again, padded.values(), strict=True))


def test_objects_to_ignore_are_marked_as_boxes_are():
    ignored = {**target(2), "ignore": torch.tensor([False, True])}
    assert PadInstances(3, ["masks"])([ignored], IMAGE[:1])[1][0, :3].tolist() == [0, -3, -1]


def test_a_missing_entry_is_told():
    incomplete = {name: value for name, value in target(1).items() if name != "masks"}
    with pytest.raises(BrickInputError, match=r"objects with \['keypoints', 'masks'\], found no \['masks'\]"):
        PadInstances(3, ["keypoints", "masks"])([target(1), incomplete], IMAGE)


def by_loops(match, quality, per_object, count):
    """The points of each object, best first; then of all objects by rank and quality."""
    ranked = []
    for object_ in set(match) - {-1}:
        points = sorted((p for p, m in enumerate(match) if m == object_), key=lambda p: -quality[p])[:per_object]
        ranked += [(rank, -quality[point], point) for rank, point in enumerate(points)]
    return [point for *_, point in sorted(ranked)][:count]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_points_of_each_object_are_selected_first(seed):
    torch.manual_seed(seed)
    match, quality = torch.randint(-1, 6, (3, 40)), torch.rand(3, 40)
    index, is_positive = select_positives(match, quality, num_objects=8, per_object=3, count=10)
    assert index.shape == is_positive.shape == (3, 10)
    for row in range(3):
        expected = by_loops(match[row].tolist(), quality[row].tolist(), 3, 10)
        assert index[row][is_positive[row]].tolist() == expected


def test_few_points_and_none_are_possible():
    match = torch.tensor([[-1, -1, 0], [-1, -1, -1]])
    index, is_positive = select_positives(match, torch.ones(2, 3), num_objects=2, per_object=4, count=16)
    assert is_positive.sum(dim=1).tolist() == [1, 0]
    assert index[0][is_positive[0]].tolist() == [2]
