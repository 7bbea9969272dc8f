import json

import numpy as np
import pytest
from PIL import Image

from brickyard import Predictor
from brickyard.data.geometry import resize_geometry
from brickyard.parts import run_lengths
from brickyard.tasks.registry import get_task
from brickyard.tasks.selection import Selection
from tests.tasks.shapes import LABELS, model_of

TASK = get_task("inst")


def values():
    """Two objects of a 64 x 64 image, and padding: a rectangle and the lower half of a box."""
    masks = np.zeros((3, 16, 16), dtype=np.float32)
    masks[0, 1:7, 3:9] = 0.9  # a cell more than the box, 4:8 x 2:6, as the decoder may return
    masks[1, 10:13, 7:16] = 0.2
    masks[1, 13:16, 7:16] = 0.8
    return {
        "boxes": np.array([[16.0, 8, 32, 24], [32, 40, 64, 64], [0, 0, 0, 0]], dtype=np.float32),
        "scores": np.array([0.75, 0.5, 0.0], dtype=np.float32),
        "labels": np.array([1, 0, -1]),
        "masks": masks,
    }


def test_the_default_is_the_classes_of_coco():
    assert TASK.variants[0] == "fcos"
    assert TASK.default_num_classes(None) == 80


def test_results_are_json_with_run_lengths_at_the_size_of_the_image():
    geometry = resize_geometry((64, 64), (64, 64), "squash")
    results = TASK.results(TASK.on_image(TASK.select(values(), Selection(0.6)), geometry), LABELS)
    (found,) = json.loads(json.dumps(results))
    segmentation = found.pop("segmentation")
    assert found == {"label": "green", "class": 1, "score": 0.75, "box": [16.0, 8.0, 32.0, 24.0]}
    assert segmentation["size"] == [64, 64]
    expected = np.zeros((64, 64), dtype=bool)
    expected[8:24, 16:32] = True
    assert np.array_equal(run_lengths.decode(segmentation), expected)


def test_masks_of_an_image_of_another_size_are_stretched_with_it():
    geometry = resize_geometry((128, 32), (64, 64), "squash")
    first, second = TASK.results(TASK.on_image(values(), geometry), LABELS)
    expected = np.zeros((128, 32), dtype=bool)
    expected[16:48, 8:16] = True
    assert np.array_equal(run_lengths.decode(first["segmentation"]), expected)
    rows, columns = np.nonzero(run_lengths.decode(second["segmentation"]))
    assert (columns.min(), columns.max()) == (16, 31)
    assert rows.min() == pytest.approx(104, abs=4), "where the probability is 0.5"
    assert rows.max() == 127


def test_masks_of_a_letterboxed_image_are_without_the_frame():
    geometry = resize_geometry((100, 200), (64, 64), "letterbox")  # rows 16 to 48 show the image
    first, _ = TASK.results(TASK.on_image(values(), geometry), LABELS)
    assert first["segmentation"]["size"] == [100, 200]
    expected = np.zeros((100, 200), dtype=bool)
    expected[0:25, 50:100] = True  # of 8 to 24, 16 to 24 show the image; times 200 / 64
    assert np.array_equal(run_lengths.decode(first["segmentation"]), expected)


def test_a_predictor_reports_masks_of_the_original_image(tmp_path):
    model = model_of("inst").eval()
    model["inst/head"].model.logits.bias.data.fill_(1.0)
    pixels = np.random.default_rng(0).integers(0, 255, (120, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    prediction = next(Predictor(model, topk=3).predict(tmp_path / "image.png", draw=True))
    results = prediction.to_json()["inst"]
    assert len(results) == 3
    for each in json.loads(json.dumps(results)):
        assert each["segmentation"]["size"] == [120, 400]
        rows, columns = np.nonzero(run_lengths.decode(each["segmentation"]))
        x1, y1, x2, y2 = each["box"]
        if len(rows):
            assert x1 - 1 <= columns.min() <= columns.max() <= x2
            assert y1 - 1 <= rows.min() <= rows.max() <= y2
    assert prediction.visualization.width == 400
    assert prediction.visualization.height > 120


def test_selected_classes_alone_are_drawn_and_reported(tmp_path):
    model = model_of("inst").eval()
    model["inst/head"].model.logits.bias.data.fill_(1.0)
    prediction = next(Predictor(model, classes=["blue"]).predict(np.zeros((64, 64, 3), np.uint8), draw=True))
    assert {each["label"] for each in prediction.results["inst"]} == {"blue"}
