"""FOMO against its loss, its peaks and a matching of points, written with loops."""

import math

import numpy as np
import pytest
import torch

from brickyard.parts.detection.fomo import FOMO, FOMOLoss, PointDecode, PointScores
from brickyard.parts.detection.heatmap import cell_map
from brickyard.parts.detection.targets import PadBoxes

K, STRIDE, CELLS = 3, 8, (6, 8)
SIZE = (CELLS[0] * STRIDE, CELLS[1] * STRIDE)
IMAGE = torch.zeros(1, 3, *SIZE)
POSITIONS = cell_map(torch.zeros(1, 1, *CELLS), STRIDE, IMAGE)
TARGET = {"boxes": torch.tensor([[4.0, 4, 20, 14], [40, 20, 47, 31]]), "labels": torch.tensor([0, 2])}


def test_cells_have_the_positions_of_their_centres():
    assert POSITIONS[0, :, 2, 5].tolist() == [44, 20]


def test_the_loss_of_small_objects_is_the_focal_loss_of_the_cells_with_and_without_a_centre():
    heatmap = torch.randn(1, K, *CELLS)
    loss = FOMOLoss([STRIDE])(heatmap, POSITIONS, *PadBoxes(K)([TARGET], IMAGE))
    expected = 0.0
    centres = {(0, 1, 1), (2, 3, 5)}  # class, row, column: boxes of a cell or two have no neighbours to spare
    for index, logit in np.ndenumerate(heatmap[0].double().numpy()):
        p = 1 / (1 + math.exp(-logit))
        expected -= (1 - p) ** 2 * math.log(p) if index in centres else p**2 * math.log(1 - p)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)


def test_background_in_a_box_to_ignore_has_no_loss():
    heatmap = torch.randn(1, K, *CELLS, requires_grad=True)
    crowd = {
        "boxes": torch.tensor([[4.0, 4, 20, 14], [32, 0, 64, 48]]),
        "labels": torch.tensor([0, 1]),
        "ignore": torch.tensor([False, True]),
    }
    loss = FOMOLoss([STRIDE])(heatmap, POSITIONS, *PadBoxes(K)([crowd], IMAGE))
    gradient = torch.autograd.grad(loss, heatmap)[0]
    assert not gradient[..., 4:].any()
    assert gradient[..., :4].all()


def peaks(scores, threshold):
    """Return (score, class, row, column) of the cells that are not below any neighbour, best first."""
    classes, height, width = scores.shape
    found = []
    for k in range(classes):
        for y in range(height):
            for x in range(width):
                around = scores[k, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                if scores[k, y, x] == around.max() and scores[k, y, x] > threshold:
                    found.append((scores[k, y, x], k, y, x))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("count", [4, 100])
def test_points_are_the_peaks_of_the_heatmap_best_first(count):
    heatmap = torch.randn(2, K, *CELLS) - 1
    points, scores, labels = PointDecode(score_threshold=0.3, count=count)(heatmap, POSITIONS.expand(2, -1, -1, -1))
    assert (points.shape, scores.shape, labels.shape) == ((2, count, 2), (2, count), (2, count))
    assert labels.dtype == torch.int64
    for image in range(2):
        expected = peaks(heatmap[image].sigmoid().numpy(), 0.3)[:count]
        kept = len(expected)
        np.testing.assert_allclose(scores[image, :kept], [score for score, *_ in expected])
        assert labels[image, :kept].tolist() == [k for _, k, _, _ in expected]
        assert points[image, :kept].tolist() == [[8 * x + 4, 8 * y + 4] for *_, y, x in expected]
        assert (labels[image, kept:] == -1).all()
        assert not scores[image, kept:].any()
        assert not points[image, kept:].any()


def test_an_object_gets_one_label_if_classes_exclude_each_other():
    heatmap = torch.full((1, 2, *CELLS), -9.0)
    heatmap[0, 0, 2, 2], heatmap[0, 1, 2, 3] = 3.0, 2.0
    assert PointDecode(count=3)(heatmap, POSITIONS)[2].tolist() == [[0, 1, -1]]
    assert PointDecode(count=3, class_agnostic=True)(heatmap, POSITIONS)[2].tolist() == [[0, -1, -1]]


def counted(points, labels, centres, classes, distance):
    """Match by loops: each point, the best first, takes the nearest centre of its class that is left."""
    left = list(range(len(centres)))
    correct = 0
    for point, label in zip(points, labels, strict=True):
        near = [
            (math.dist(point, centres[index]), index)
            for index in left
            if classes[index] == label and math.dist(point, centres[index]) <= distance
        ]
        if near:
            left.remove(min(near)[1])
            correct += 1
    return correct, len(points) - correct, len(centres) - correct


def test_points_are_matched_one_to_one_with_the_nearest_box_of_their_class():
    rng = np.random.default_rng(0)
    metric, totals = PointScores(distance=12), np.zeros(3)
    for _ in range(5):
        centres = rng.uniform(10, 60, (7, 2)).astype(np.float32)
        classes = rng.integers(0, 2, 7)
        points = rng.uniform(10, 60, (9, 2)).astype(np.float32)
        labels, scores = rng.integers(0, 2, 9), np.sort(rng.uniform(0, 1, 9))[::-1].astype(np.float32)
        boxes = torch.from_numpy(np.concatenate([centres - 3, centres + 3], axis=1))
        targets = PadBoxes(2)([{"boxes": boxes, "labels": torch.from_numpy(classes)}], torch.zeros(1, 3, 64, 64))
        metric.update(*(torch.from_numpy(each.copy())[None] for each in (points, scores, labels)), *targets)
        kept = scores >= 0.3
        totals += counted(points[kept].tolist(), labels[kept].tolist(), centres.tolist(), classes.tolist(), 12)
    correct, wrong, missed = totals
    assert correct > 5
    values = metric.compute()
    assert values["Precision"].item() == pytest.approx(correct / (correct + wrong))
    assert values["Recall"].item() == pytest.approx(correct / (correct + missed))
    assert values["F1"].item() == pytest.approx(2 * correct / (2 * correct + wrong + missed))


def scored(points, labels=(0,), target=TARGET, **options):
    metric = PointScores(distance=8)
    arrays = (torch.tensor([points]).float(), torch.full((1, len(points)), 0.9), torch.tensor([labels]))
    metric.update(*arrays, *PadBoxes(K)([target], IMAGE), **options)
    return metric


def test_a_second_point_on_an_object_is_wrong():
    metric = scored([[12.0, 9], [13, 9]], labels=(0, 0))
    assert (metric.correct, metric.wrong, metric.missed) == (1, 1, 1)


def test_a_point_farther_away_than_the_distance_or_of_another_class_is_wrong():
    assert scored([[12.0, 17]]).correct == 1, "at the distance"
    assert scored([[12.0, 17.5]]).correct == 0
    assert scored([[12.0, 9]], labels=(1,)).correct == 0


def test_points_in_a_box_to_ignore_of_their_class_do_not_count():
    crowd = {"boxes": TARGET["boxes"], "labels": TARGET["labels"], "ignore": torch.tensor([True, False])}
    metric = scored([[12.0, 9], [12, 9], [13, 9]], labels=(0, 0, 2), target=crowd)
    assert (metric.correct, metric.wrong, metric.missed) == (0, 1, 1), "the third point is of another class"


def test_without_labelled_images_nothing_is_reported_and_without_objects_nan():
    assert scored([[12.0, 9]], labelled=torch.tensor([False])).compute() == {}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    values = scored([[0.0, 0]], labels=(-1,), target=empty).compute()
    assert all(value.isnan() for value in values.values())


def test_every_parameter_of_the_head_is_trained():
    head = FOMO([4, 8, 16], [4, 8, 16], num_classes=K)
    maps = [torch.rand(1, 4, 16, 16), torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)]
    heatmap, cells = head(maps, torch.zeros(1, 3, 64, 64))
    assert heatmap.shape == (1, K, 8, 8)
    assert cells[0, :, 2, 1].tolist() == [12, 20]
    heatmap.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
