import pytest
import torch
from torch import multiprocessing
from torchmetrics.detection import MeanAveragePrecision

from brickyard.parts.detection.metrics import PaddedMeanAveragePrecision, detection_metrics


def padded(found, labelled, count=6, most=4):
    """(box, score, label) and (box, label) of each picture -> what a decoder and `PadBoxes` write."""
    boxes, scores = torch.zeros(len(found), count, 4), torch.zeros(len(found), count)
    labels = torch.full((len(found), count), -1)
    target_boxes, target_labels = torch.zeros(len(found), most, 4), torch.full((len(found), most), -1)
    for index, (ours, theirs) in enumerate(zip(found, labelled, strict=True)):
        for row, (box, score, label) in enumerate(ours):
            boxes[index, row], scores[index, row], labels[index, row] = torch.tensor(box), score, label
        for row, (box, label) in enumerate(theirs):
            target_boxes[index, row], target_labels[index, row] = torch.tensor(box), label
    return boxes, scores, labels, target_boxes, target_labels


A, B, C = [10.0, 10, 50, 50], [60.0, 60, 90, 100], [5.0, 70, 30, 95]
NEAR_A = [14.0, 10, 54, 50]  # overlaps A by 0.82
FOUND = [[(NEAR_A, 0.9, 0), (C, 0.8, 1)], [(B, 0.7, 1)], []]
LABELLED = [[(A, 0), (B, 1)], [(B, 1)], [(C, 0)]]


def by_torchmetrics(found, labelled):
    metric = MeanAveragePrecision(backend="faster_coco_eval")
    for ours, theirs in zip(found, labelled, strict=True):
        boxes, scores, labels = zip(*ours, strict=True) if ours else ([], [], [])
        target_boxes, target_labels = zip(*theirs, strict=True) if theirs else ([], [])
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
                }
            ],
        )
    return metric.compute()


def test_padded_boxes_are_measured_as_the_bare_ones_by_torchmetrics():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded(FOUND[:2], LABELLED[:2]))
    metric.update(*padded(FOUND[2:], LABELLED[2:], most=16))
    computed, expected = metric.compute(), by_torchmetrics(FOUND, LABELLED)
    assert set(computed) >= {"map", "map_50", "map_75", "mar_100"}
    for name, value in computed.items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_a_case_by_hand():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded([[(NEAR_A, 0.9, 0)]], [[(A, 0)]]))
    computed = metric.compute()
    assert computed["map_50"] == 1
    assert computed["map"].item() == pytest.approx(0.7), "0.82 is enough for 0.50, 0.55 ... 0.80"


def test_unlabelled_pictures_are_left_out():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded(FOUND, LABELLED), torch.tensor([False, True, False]))
    assert metric.compute()["map"].item() == pytest.approx(1)


def test_nothing_found_is_zero_and_nothing_labelled_is_no_number():
    metric = PaddedMeanAveragePrecision()
    metric.update(*padded([[]], [[(A, 0)]]))
    assert metric.compute()["map"] == 0
    metric.reset()
    metric.update(*padded([[]], [[]]))
    assert metric.compute()["map"] == -1


def test_the_collection_reports_each_value_by_its_name():
    metrics = detection_metrics()
    metrics.update(*padded(FOUND, LABELLED))
    assert {"map", "map_50", "map_75"} <= set(metrics.compute())


def one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = PaddedMeanAveragePrecision()
    rows = slice(0, 2) if rank == 0 else slice(2, 3)
    metric.update(*padded(FOUND[rows], LABELLED[rows]))
    if rank == 0:
        metric.update(*padded([[]], [[]]))  # and more batches than the other
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_with_different_numbers_of_pictures_agree(tmp_path):
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    expected = by_torchmetrics([*FOUND, []], [*LABELLED, []])
    for rank in (0, 1):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(value, expected[name], msg=name)
