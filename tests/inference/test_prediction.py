"""A prediction as an image and as `supervision.Detections`."""

import sys
from typing import Any

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from brickyard import BrickInputError, MissingExtraError, Prediction, Predictor, UnknownNameError, create_model
from tests.toys import SOURCE

COFFEE = SOURCE / "brickyard" / "samples" / "coffee.jpg"


def box(name: str, number: int, score: float, *corners: float) -> dict[str, Any]:
    return {"label": name, "class": number, "score": score, "box": list(corners)}


@pytest.fixture
def prediction() -> Prediction:
    """Two boxes, a mask of two classes on 4 x 6 pixels, and a class."""
    mask = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 2, 2, 0, 0], [-1, 0, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0]])
    results = {
        "det": [box("dog", 1, 0.9, 1, 2, 3.5, 4), box("cat", 0, 0.25, 0, 0, 6, 4)],
        "seg": [{"label": "sky", "class": 0, "share": 18 / 24}, {"label": "car", "class": 2, "share": 5 / 24}],
        "cls": [{"label": "indoor", "class": 3, "probability": 0.5}],
    }
    image = Image.new("RGB", (6, 4), "red")
    return Prediction("a.jpg", None, (6, 4), results, {"seg": mask}, image, located=("det", "seg"))


def test_boxes_become_detections_with_scores_and_class_names(prediction):
    detections = prediction.to_supervision("det")
    assert isinstance(detections, sv.Detections)
    np.testing.assert_array_equal(detections.xyxy, np.float32([[1, 2, 3.5, 4], [0, 0, 6, 4]]))
    np.testing.assert_array_equal(detections.confidence, np.float32([0.9, 0.25]))
    np.testing.assert_array_equal(detections.class_id, [1, 0])
    assert detections["class_name"].tolist() == ["dog", "cat"]
    assert detections.mask is None
    assert detections[detections.confidence > 0.5]["class_name"].tolist() == ["dog"]
    inside = sv.PolygonZone(np.array([[0, 0], [6, 0], [6, 4], [0, 4]]), triggering_anchors=[sv.Position.CENTER])
    np.testing.assert_array_equal(inside.trigger(detections), [True, True])


def test_a_mask_becomes_a_detection_for_each_class_without_confidence(prediction):
    detections = prediction.to_supervision("seg")
    expected = np.stack([prediction.masks["seg"] == 0, prediction.masks["seg"] == 2])
    np.testing.assert_array_equal(detections.mask, expected)
    np.testing.assert_array_equal(detections.xyxy, sv.mask_to_xyxy(expected))
    np.testing.assert_array_equal(detections.area, [18, 5])
    assert detections.confidence is None
    assert detections["class_name"].tolist() == ["sky", "car"]


def test_masks_of_instances_keep_their_boxes_and_scores(prediction):
    (_, car) = Prediction("", results=prediction.results, masks=prediction.masks).to_json()["seg"]
    row = {**box("car", 2, 0.75, 2, 1, 5, 3), "segmentation": car["segmentation"]}
    detections = Prediction("a.jpg", None, (6, 4), {"inst": [row]}, located=("inst",)).to_supervision()
    np.testing.assert_array_equal(detections.mask, [prediction.masks["seg"] == 2])
    np.testing.assert_array_equal(detections.xyxy, [[2, 1, 5, 3]])
    np.testing.assert_array_equal(detections.confidence, [0.75])


def test_an_image_without_results_has_no_detections(prediction):
    empty = Prediction("a.jpg", None, (6, 4), {"det": [], "cls": prediction.results["cls"]}, located=("det",))
    for detections in (empty.to_supervision(), empty.to_supervision("det")):
        assert len(detections) == 0
    annotated = sv.BoxAnnotator().annotate(np.zeros((4, 6, 3), np.uint8), detections)
    assert not annotated.any()


def test_the_head_must_be_one_with_boxes_or_masks(prediction):
    with pytest.raises(BrickInputError, match=r"expected one head with boxes or masks, found \['det', 'seg'\]"):
        prediction.to_supervision()
    with pytest.raises(UnknownNameError, match=r"Unknown head 'dett'\. Did you mean 'det'"):
        prediction.to_supervision("dett")
    with pytest.raises(
        BrickInputError, match=r"head 'cls': expected results with a box or a mask, found only \['class'"
    ):
        prediction.to_supervision("cls")
    with pytest.raises(BrickInputError, match="found none"):
        Prediction("a.jpg", results={"cls": []}).to_supervision()
    with pytest.raises(BrickInputError, match=r"a\.jpg: expected an image that could be read, found truncated"):
        Prediction("a.jpg", error="truncated").to_supervision()


def test_without_supervision_the_error_names_the_extra(prediction, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"brickyard\[supervision\]"):
        prediction.to_supervision("det")


def test_predictions_of_a_model_name_the_heads_with_boxes_and_masks():
    model = create_model("test_resnet_cls_seg_det", num_classes={"cls": 3, "seg": 4, "det": 2}).eval()
    (prediction,) = Predictor(model, device="cpu").predict(COFFEE)
    assert prediction.located == ("seg", "det")
    detections = prediction.to_supervision("seg")
    for mask, number in zip(detections.mask, detections.class_id, strict=True):
        np.testing.assert_array_equal(mask, prediction.masks["seg"] == number)
    assert len(prediction.to_supervision("det")) == len(prediction.results["det"])


@pytest.mark.parametrize("name", ["out.png", "new/out.JPG"])
def test_the_visualization_is_saved_in_the_format_of_the_suffix(name, prediction, tmp_path):
    for _ in range(2):  # the second time over the first file
        prediction.save(tmp_path / name)
    saved = Image.open(tmp_path / name)
    assert saved.format == {"out.png": "PNG", "new/out.JPG": "JPEG"}[name]
    assert np.abs(np.asarray(saved, int) - np.asarray(prediction.visualization, int)).max() <= 2
    assert list((tmp_path / name).parent.iterdir()) == [tmp_path / name]


def test_what_cannot_be_saved_is_refused_and_replaces_nothing(prediction, tmp_path):
    file = tmp_path / "out.png"
    file.write_bytes(b"old")
    with pytest.raises(BrickInputError, match=r"a\.jpg: expected a visualization, found none\. Predict with draw=True"):
        Prediction("a.jpg", None, (6, 4)).save(file)
    with pytest.raises(BrickInputError, match="found truncated"):
        Prediction("a.jpg", error="truncated").show()
    for name in ("out.json", "out"):
        with pytest.raises(BrickInputError, match="expected the suffix of an image"):
            prediction.save(tmp_path / name)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.png", b"old")]


def test_show_opens_the_visualization(prediction, monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append((self, title)))
    prediction.show()
    assert shown == [(prediction.visualization, "a.jpg")]
