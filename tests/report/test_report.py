import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard import BrickCollection, MissingExtraError, Stage, export_onnx
from brickyard.data.label_drawing import LabelDrawing, enlarged
from brickyard.parts.drawing.canvas import row_height
from brickyard.report.report import EvaluationReport
from brickyard.training.evaluation import evaluate
from tests.runs import Rectangles, collate_rectangles, small_model

CORRUPTED = 4


class Corrupted(Rectangles):
    """Rectangles of which one has wrong labels."""

    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        if index == CORRUPTED:
            sample["targets/cls"] = (sample["targets/cls"] + 1) % 3
            sample["targets/seg"] = sample["targets/seg"].roll(30, dims=1)
        return sample


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def trained() -> BrickCollection:
    """A model that knows nine rectangles."""
    model = small_model("test_resnet_cls_seg-lraspp")
    data = Rectangles(9)
    batch = collate_rectangles([data[index] for index in range(9)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        losses = model.extract_losses(model(batch, tags=Stage.TRAIN.tags))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def folder(trained: BrickCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, out = Corrupted(9, {"cls": {7}}), tmp_path_factory.mktemp("report")
    report = EvaluationReport(data, worst=3)
    metrics = evaluate(trained, data, batch_size=4, on_batch=report.update)
    assert report.write(out, metrics) == sorted(file.name for file in out.iterdir())
    return out


def test_the_worst_image_is_the_one_with_wrong_labels(folder: Path, trained: BrickCollection) -> None:
    for head in ("cls", "seg"):
        worst = read(folder / f"{head}_worst.csv")
        assert int(worst[0]["image"]) == CORRUPTED
        assert len(worst) == 3
        errors = [float(row["error"]) for row in worst]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 2 * errors[1]
        sample = collate_rectangles([Corrupted(9)[CORRUPTED]])
        with torch.no_grad():
            losses = trained(sample, tags={"MODEL", "LOSS"}, skip_missing=True)
        assert errors[0] == pytest.approx(float(losses[f"{head}/loss"]), rel=1e-4)


def test_an_image_without_a_label_is_not_among_the_worst(trained: BrickCollection, tmp_path: Path) -> None:
    data = Rectangles(9, {"cls": {7}})
    report = EvaluationReport(data, worst=16)
    evaluate(trained, data, batch_size=4, on_batch=report.update)
    report.write(tmp_path, {})
    assert {int(row["image"]) for row in read(tmp_path / "cls_worst.csv")} == {*range(9)} - {7}
    assert {int(row["image"]) for row in read(tmp_path / "seg_worst.csv")} == {*range(9)}


@pytest.mark.parametrize("head", ["cls", "seg"])
def test_the_label_is_drawn_next_to_the_prediction(head: str, folder: Path, trained: BrickCollection) -> None:
    sample = enlarged(Corrupted(9)[CORRUPTED], Corrupted(9).kinds)
    assert sample["image"].shape == (3, 320, 320)
    expected = np.asarray(LabelDrawing(Corrupted(9))(sample, head))
    with Image.open(folder / f"{head}_worst.png") as opened:
        sheet = np.asarray(opened)
    row = row_height(Image.fromarray(expected))
    top, left = 8 + 2 * row, 8 + 320 + row // 4  # below two captions, to the right of the prediction
    assert (sheet[top : top + expected.shape[0], left : left + 320] == expected).all()
    if head == "seg":  # the prediction is drawn as on an image of this size: its mask is that of the model, enlarged
        image = {"image": Corrupted(9)[CORRUPTED]["image"][None]}
        with torch.no_grad():
            mask = (
                trained(image, tags={"MODEL"})["seg/class_prediction"].repeat_interleave(5, 1).repeat_interleave(5, 2)
            )
        drawn = trained["seg/visualization"]({"image": sample["image"][None], "seg/class_prediction": mask})
        predicted = np.asarray(drawn["seg/visualization"][0])[:320]
        assert (sheet[top : top + 320, 8:328] == predicted).all()


def test_all_metrics_are_in_a_table(folder: Path, trained: BrickCollection) -> None:
    metrics = evaluate(trained, Corrupted(9, {"cls": {7}}), batch_size=4)
    rows = {row["metric"]: row["value"] for row in read(folder / "metrics.csv")}
    assert rows.keys() == metrics.keys()
    assert float(rows["seg/MeanIoU"]) == pytest.approx(metrics["seg/MeanIoU"], rel=1e-4)


def test_a_confusion_matrix_counts_the_images_of_an_evaluation(folder: Path) -> None:
    matrix = np.array([[float(cell) for cell in [*row.values()][1:]] for row in read(folder / "cls_confusion.csv")])
    assert matrix.sum() == 8
    accuracy = next(row["value"] for row in read(folder / "metrics.csv") if row["metric"] == "cls/Accuracy")
    assert matrix.trace() / 8 == pytest.approx(float(accuracy))


def test_no_worst_images_are_drawn_unless_asked(trained: BrickCollection, tmp_path: Path) -> None:
    report = EvaluationReport(Rectangles(2), worst=0)
    evaluate(trained, Rectangles(2), on_batch=report.update)
    assert not any("worst" in name for name in report.write(tmp_path, {}))


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"Plots of an evaluation needs the extra 'train'"):
        EvaluationReport(Rectangles(2))


@pytest.mark.slow
def test_an_exported_file_has_all_but_the_worst_images(trained: BrickCollection, folder: Path, tmp_path: Path) -> None:
    data = Corrupted(9, {"cls": {7}})
    export_onnx(trained, tmp_path / "model.onnx", image_size=64)
    report = EvaluationReport(data)
    metrics = evaluate(str(tmp_path / "model.onnx"), data, batch_size=4, on_batch=report.update)
    names = report.write(tmp_path / "out", metrics)
    assert set(names) == {file.name for file in folder.iterdir() if "worst" not in file.name}
    expected = (folder / "cls_confusion.csv").read_text()
    assert (tmp_path / "out" / "cls_confusion.csv").read_text() == expected
