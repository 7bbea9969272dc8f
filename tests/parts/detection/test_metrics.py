import pytest
import torch
from torch import multiprocessing
from torchmetrics.detection import MeanAveragePrecision

from brickyard.parts.detection.metrics import PaddedMeanAveragePrecision, detection_metrics


def padded(detections, targets, count=6, max_targets=4):
    """Pad (box, score, label) and (box, label) of each image as a decoder and `PadBoxes` do."""
    boxes, scores = torch.zeros(len(detections), count, 4), torch.zeros(len(detections), count)
    labels = torch.full((len(detections), count), -1)
    target_boxes, target_labels = torch.zeros(len(targets), max_targets, 4), torch.full((len(targets), max_targets), -1)
    for index, (detected, expected) in enumerate(zip(detections, targets, strict=True)):
        for row, (box, score, label) in enumerate(detected):
            boxes[index, row], scores[index, row], labels[index, row] = torch.tensor(box), score, label
        for row, (box, label) in enumerate(expected):
            target_boxes[index, row], target_labels[index, row] = torch.tensor(box), label
    return boxes, scores, labels, target_boxes, target_labels


A, B, C = [10.0, 10, 50, 50], [60.0, 60, 90, 100], [5.0, 70, 30, 95]
NEAR_A = [14.0, 10, 54, 50]  # an IoU of 0.82 with A
DETECTIONS = [[(NEAR_A, 0.9, 0), (C, 0.8, 1)], [(B, 0.7, 1)], []]
TARGETS = [[(A, 0), (B, 1)], [(B, 1)], [(C, 0)]]


def by_torchmetrics(detections, targets, crowds=None):
    metric = MeanAveragePrecision(backend="faster_coco_eval")
    crowds = crowds or [[]] * len(targets)
    for detected, objects, crowd in zip(detections, targets, crowds, strict=True):
        is_crowd = [0] * len(objects) + [1] * len(crowd)
        expected = [*objects, *crowd]
        boxes, scores, labels = zip(*detected, strict=True) if detected else ([], [], [])
        target_boxes, target_labels = zip(*expected, strict=True) if expected else ([], [])
        metric.update(
            [
                {
                    "boxes": torch.tensor(boxes).reshape(-1, 4),
                    "scores": torch.tensor(scores),
                    "labels": torch.tensor(labels, dtype=torch.int64),
                }
            ],
            [
                {
                    "boxes": torch.tensor(target_boxes).reshape(-1, 4),
                    "labels": torch.tensor(target_labels, dtype=torch.int64),
                    "iscrowd": torch.tensor(is_crowd),
                }
            ],
        )
    return metric.compute()


def test_values_of_padded_boxes_equal_torchmetrics():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded(DETECTIONS[:2], TARGETS[:2]))
    metric.update(*padded(DETECTIONS[2:], TARGETS[2:], max_targets=16))
    values, expected = metric.compute(), by_torchmetrics(DETECTIONS, TARGETS)
    assert set(values) >= {"map", "map_50", "map_75", "mar_100"}
    for name, value in values.items():
        torch.testing.assert_close(value, torch.where(expected[name] < 0, torch.nan, expected[name]), equal_nan=True)


def test_detections_on_boxes_to_ignore_do_not_count_as_with_coco():
    # One person is found; a second detection is on a crowd. COCO ignores it, otherwise it were a false positive.
    crowd = [50.0, 50, 120, 120]
    on_crowd = [60.0, 60, 90, 90]
    detections, targets, crowds = [[(A, 0.8, 0), (on_crowd, 0.9, 0)]], [[(A, 0)]], [[(crowd, 0)]]
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded(detections, [[(A, 0), (crowd, -2 - 0)]]))
    values, expected = metric.compute(), by_torchmetrics(detections, targets, crowds)
    assert values["map_50"] == 1
    for name, value in values.items():
        torch.testing.assert_close(value, torch.where(expected[name] < 0, torch.nan, expected[name]), equal_nan=True)


def test_a_single_detection_has_the_expected_precision():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded([[(NEAR_A, 0.9, 0)]], [[(A, 0)]]))
    values = metric.compute()
    assert values["map_50"] == 1
    assert values["map"].item() == pytest.approx(0.7), "0.82 is enough for 0.50, 0.55 ... 0.80"


def test_unlabelled_images_are_ignored():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded(DETECTIONS, TARGETS), torch.tensor([False, True, False]))
    assert metric.compute()["map"].item() == pytest.approx(1)


def test_no_detections_are_0_and_no_targets_are_nan():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded([[]], [[(A, 0)]]))
    assert metric.compute()["map"] == 0
    metric.reset()
    metric.update(*padded([[]], [[]]))
    assert metric.compute()["map"].isnan()


def test_the_collection_reports_each_value_by_its_name():
    metrics = detection_metrics()
    metrics.update(*padded(DETECTIONS, TARGETS))
    assert {"map", "map_50", "map_75"} <= set(metrics.compute())


def one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = PaddedMeanAveragePrecision()
    rows = slice(0, 2) if rank == 0 else slice(2, 3)
    metric.update(*padded(DETECTIONS[rows], TARGETS[rows]))
    if rank == 0:
        metric.update(*padded([[]], [[]]))  # one batch more than the other process
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_with_different_numbers_of_images_agree(tmp_path):
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    expected = by_torchmetrics([*DETECTIONS, []], [*TARGETS, []])
    for rank in (0, 1):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(
                value, torch.where(expected[name] < 0, torch.nan, expected[name]), equal_nan=True
            )
