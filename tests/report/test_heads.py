"""Metrics of single classes, confusion matrices and curves, compared with scikit-learn's and COCO's."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    jaccard_score,
    precision_recall_curve,
    precision_recall_fscore_support,
)

from brickyard.core.specs import HeadInfo
from brickyard.report.heads import BoxReport, ConfusionReport, MultilabelReport, report_of

NAMES = ("a", "b", "c", "d")


def rows(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.reader(opened))[1:]


def numbers(table: list[list[str]], first: int = 1) -> np.ndarray:
    return np.array([[float(cell) if cell else np.nan for cell in row[first:]] for row in table])


def classes_of_pixels(seed: int, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and labels, mostly equal; there is no label of the last class, and no prediction of the first."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 3, size, generator=generator)
    noise = torch.randint(1, 4, size, generator=generator)
    return torch.where((torch.rand(size, generator=generator) < 0.6) & (target > 0), target, noise), target


class TestConfusion:
    @pytest.mark.parametrize(
        ("head", "kind", "size"),
        [("cls", HeadInfo("cls", "linear", NAMES), (40,)), ("seg", HeadInfo("seg", "fpn", NAMES), (4, 8, 6))],
    )
    def test_tables_are_those_of_scikit_learn(self, head, kind, size, tmp_path):
        prediction, target = classes_of_pixels(0, size)
        labelled = torch.ones(len(target), dtype=torch.bool)
        labelled[1] = False
        report = report_of(head, kind)
        assert isinstance(report, ConfusionReport)
        if head == "seg":
            target[2, :3] = 255
        for part in (slice(0, 3), slice(3, None)):
            values = {f"{head}/class_prediction": prediction[part], f"targets/{head}": target[part]}
            report.update({**values, f"labelled/{head}": labelled[part]})
        report.write(tmp_path)
        known = (target != 255) & labelled.view(-1, *[1] * (target.ndim - 1))
        true, predicted, every = target[known].numpy(), prediction[known].numpy(), range(4)
        expected = confusion_matrix(true, predicted, labels=every)
        assert (numbers(rows(tmp_path / f"{head}_confusion.csv")) == expected).all()
        table = rows(tmp_path / f"{head}_classes.csv")
        options = {"labels": [*every], "average": None, "zero_division": np.nan}
        precision, recall, f1, support = precision_recall_fscore_support(true, predicted, **options)
        iou = jaccard_score(true, predicted, labels=[*every], average=None)
        found = numbers(table)
        for column, values in enumerate((precision, recall, f1, iou, support, expected.sum(axis=0))):
            np.testing.assert_allclose(found[:, column], values, rtol=1e-5)
        assert [row[0] for row in table] == [*NAMES]
        assert (tmp_path / f"{head}_confusion.png").read_bytes().startswith(b"\x89PNG")

    def test_no_class_of_an_image_is_ignored(self, tmp_path):
        report = report_of("cls", HeadInfo("cls", "linear", tuple(map(str, range(300)))))
        report.update({"cls/class_prediction": torch.tensor([255, 3]), "targets/cls": torch.tensor([255, 255])})
        report.write(tmp_path)
        matrix = numbers(rows(tmp_path / "cls_confusion.csv"))
        assert (matrix[255, 255], matrix[255, 3], matrix.sum()) == (1, 1, 2)

    def test_a_batch_without_labels_or_outputs_is_left_out(self):
        report = report_of("cls", HeadInfo("cls", "linear", NAMES))
        report.update({"cls/class_prediction": torch.tensor([1])})
        report.update({"targets/cls": torch.tensor([1])})
        none = torch.tensor([False])
        report.update(
            {"cls/class_prediction": torch.tensor([1]), "targets/cls": torch.tensor([1]), "labelled/cls": none}
        )
        assert report.num_images == 0


def test_curves_of_several_labels_are_those_of_scikit_learn(tmp_path):
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(30, 4, generator=generator) < 0.4).long()
    target[:, 2] = 0  # there is no image with this class
    logits = 2 * torch.randn(30, 4, generator=generator) + target
    logits[:10] = logits[:10].clamp(0.1, 0.9)  # a batch that could be mistaken for probabilities
    report = report_of("cls", HeadInfo("cls", "multilabel", NAMES))
    assert isinstance(report, MultilabelReport)
    for part in (slice(0, 10), slice(10, 30)):
        report.update({"cls/logits": logits[part], "targets/cls": target[part]})
    report.write(tmp_path)
    scores, true = logits.sigmoid().numpy(), target.numpy()
    points, found = rows(tmp_path / "cls_precision_recall.csv"), numbers(rows(tmp_path / "cls_classes.csv"))
    for index, name in enumerate(NAMES):
        of_class = numbers([row for row in points if row[0] == name])
        if name == "c":
            assert not len(of_class)
            assert np.isnan(found[index, 0])
            continue
        precision, recall, thresholds = precision_recall_curve(true[:, index], scores[:, index])
        np.testing.assert_allclose(of_class[:, 1], recall, atol=1e-5)
        np.testing.assert_allclose(of_class[:, 2], precision, atol=1e-5)
        np.testing.assert_allclose(of_class[:-1, 0], thresholds, atol=1e-5)
        assert found[index, 0] == pytest.approx(average_precision_score(true[:, index], scores[:, index]), abs=1e-5)
    options = {"average": None, "zero_division": np.nan}
    precision, recall, f1, support = precision_recall_fscore_support(true, scores > 0.5, **options)
    known = support > 0
    for column, values in enumerate((precision, recall, f1, support), 1):
        np.testing.assert_allclose(found[known, column], values[known], rtol=1e-5)
    assert (tmp_path / "cls_precision_recall.png").read_bytes().startswith(b"\x89PNG")


def random_boxes(seed: int) -> dict[str, torch.Tensor]:
    """Boxes of 8 images and detections near some of them; the third class has no object, the fourth no detection."""
    generator = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(8, 5, 2, generator=generator)
    boxes = torch.cat([corner, corner + 8 + 40 * torch.rand(8, 5, 2, generator=generator)], dim=-1)
    labels = torch.tensor([0, 1, 0, 3, -1]).repeat(8, 1)
    detected = boxes + 4 * torch.randn(8, 5, 4, generator=generator)
    classes = torch.tensor([0, 1, 1, 2, -1]).repeat(8, 1)
    scores = torch.rand(8, 5, generator=generator)
    return {
        "det/boxes": detected,
        "det/scores": torch.where(classes < 0, 0, scores),
        "det/labels": classes,
        "det/target_boxes": boxes,
        "det/target_labels": labels,
    }


def coco_of(values: dict[str, torch.Tensor], present: list[int]) -> COCOeval_faster:
    """COCO's evaluation of padded boxes."""
    shared = {"info": {}, "images": [{"id": n, "height": 200, "width": 200} for n in range(8)]}
    shared["categories"] = [{"id": index, "name": NAMES[index]} for index in present]
    truth, found = [], []
    for name, score, objects in (("target_", None, truth), ("", values["det/scores"], found)):
        for image, row in zip(*(values[f"det/{name}labels"] >= 0).nonzero(as_tuple=True), strict=True):
            left, top, right, bottom = values[f"det/{name}boxes"][image, row].tolist()
            entry = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            entry |= {"id": len(objects) + 1, "image_id": int(image), "iscrowd": 0}
            entry |= {"category_id": int(values[f"det/{name}labels"][image, row])}
            objects.append(entry if score is None else {**entry, "score": float(score[image, row])})
    coco = COCO({**shared, "annotations": truth})
    evaluator = COCOeval_faster(coco, coco.loadRes(found), iouType="bbox")
    evaluator.run()
    return evaluator


def test_curves_of_boxes_are_those_of_coco(tmp_path):
    values = random_boxes(0)
    report = report_of("det", HeadInfo("det", "fcos", NAMES))
    assert isinstance(report, BoxReport)
    for part in (slice(0, 3), slice(3, 8)):
        report.update({**{name: value[part] for name, value in values.items()}, "targets/det": [{}]})
    report.write(tmp_path)
    evaluated = coco_of(values, [0, 1, 2, 3]).eval
    precision, recall = evaluated["precision"][..., 0, -1], evaluated["recall"][..., 0, -1]  # (T, R, K), (T, K)
    found, points = numbers(rows(tmp_path / "det_classes.csv")), rows(tmp_path / "det_precision_recall.csv")
    assert 0.1 < precision[0, :, 0].mean() < 0.9
    for index, name in enumerate(NAMES):
        if name == "c":
            assert np.isnan(found[index, :4]).all()
            assert not any(row[0] == name for row in points)
            continue
        expected = [precision[..., index].mean(), precision[0, :, index].mean(), precision[5, :, index].mean()]
        np.testing.assert_allclose(found[index, :4], [*expected, recall[:, index].mean()], atol=1e-5)
        for iou, row in (("0.5", 0), ("0.75", 5)):
            curve = numbers([point for point in points if point[:2] == [name, iou]], first=2)
            np.testing.assert_allclose(curve[:, 0], np.linspace(0, 1, 101), atol=1e-5)
            np.testing.assert_allclose(curve[:, 1], precision[row, :, index], atol=1e-5)
    assert found[:, 4].tolist() == [16, 8, 0, 8]
    assert (tmp_path / "det_precision_recall.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_detects_nothing_has_tables(tmp_path):
    values = random_boxes(0) | {"det/labels": torch.full((8, 5), -1)}
    report = report_of("det", HeadInfo("det", "fcos", NAMES))
    report.update({**values, "targets/det": [{}]})
    report.write(tmp_path)
    assert numbers(rows(tmp_path / "det_classes.csv"))[:, 4].tolist() == [16, 8, 0, 8]


@pytest.mark.parametrize("task", ["inst", "pose", "kpt", "depth", "ocr", "emb", "anomaly", "fomo"])
def test_other_tasks_have_no_tables(task):
    assert report_of(task, HeadInfo(task, "", NAMES)) is None
