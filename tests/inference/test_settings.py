"""What is reported and drawn: the defaults of the model, and the arguments of a predictor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_masks
from PIL import Image

from brickyard import (
    BrickCollection,
    BrickInputError,
    BrickPerImageVisualization,
    Predictor,
    Stage,
    UnknownNameError,
    create_model,
    create_part,
    export_onnx,
)

LABELS = {"cls": list("abcdefg"), "seg": ["background", "a", "b", "c"], "det": ["a", "b", "z"]}


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    torch.manual_seed(0)
    model = create_model("test_resnet_cls_seg_det", labels=LABELS).eval()
    for module in model["det/head"].modules():  # scores that are spread over (0, 1), for every class
        if isinstance(module, torch.nn.Conv2d) and module.out_channels == 3:
            module.bias.data.zero_()
            module.weight.data.normal_(std=2.0)
    return model


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)


def outputs_of(model: BrickCollection, image: np.ndarray) -> dict:
    """The outputs of the model for the image, resized as the predictor does."""
    pixels = Predictor(model, device="cpu").reader.preprocess(Image.fromarray(image))[None]
    with torch.inference_mode():
        return {k: v[0].numpy() for k, v in model({"image": pixels}, tags=Stage.INFERENCE.tags).items() if "/" in k}


def predict(source, image, **options):
    return next(Predictor(source, device="cpu", **options).predict(image, draw=True))


@pytest.mark.parametrize("threshold", [None, 0.1, 0.6])
def test_detections_from_the_threshold_are_reported(threshold, model, image):
    outputs = outputs_of(model, image)
    scores = outputs["det/scores"][outputs["det/labels"] >= 0]
    limit = 0.3 if threshold is None else threshold
    found = [result["score"] for result in predict(model, image, threshold=threshold).results["det"]]
    assert found == pytest.approx(scores[scores >= limit].tolist(), abs=1e-5)
    assert (scores >= 0.1).sum() > 0


def test_classes_and_topk_limit_every_head(model, image):
    outputs = outputs_of(model, image)
    results = predict(model, image, classes=["a"], topk=2, threshold=0.0).results
    assert {result["label"] for head in ("cls", "seg", "det") for result in results[head]} <= {"a"}
    (probability,) = [result["probability"] for result in results["cls"]]
    assert probability == pytest.approx(float(outputs["cls/probabilities"][0]), abs=1e-5)
    assert len(results["det"]) == 2
    best = np.sort(outputs["cls/probabilities"])[::-1]
    seven = predict(model, image, topk=7).results["cls"]
    assert [each["probability"] for each in seven] == pytest.approx(best.tolist(), abs=1e-5)
    assert len(predict(model, image).results["cls"]) == 5


def test_an_unknown_class_is_an_error_with_the_nearest_names(model):
    with pytest.raises(UnknownNameError, match=r"Unknown class 'backgroud'\. Did you mean 'background'"):
        Predictor(model, device="cpu", classes=["a", "backgroud"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold: expected a number in"),
        ({"topk": 0}, "topk: expected 1 or more"),
        ({"image_size": 0}, "image_size"),
    ],
)
def test_settings_out_of_range_are_errors(options, message, model):
    with pytest.raises(BrickInputError, match=message):
        Predictor(model, device="cpu", **options)


def test_what_is_drawn_is_what_is_reported(model, image):
    """Boxes appear in the visualization from the threshold on."""
    none = predict(model, image, threshold=1.0, classes=["z"]).visualization
    some = predict(model, image, threshold=0.0, classes=["z"]).visualization
    size = (130, 90) if none.width == 130 else (none.width, round(90 * none.width / 130))
    enlarged = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))
    assert np.array_equal(np.asarray(none)[: size[1]], enlarged)
    assert not np.array_equal(np.asarray(some)[: size[1]], enlarged)


def test_masks_are_arrays_and_run_lengths_at_the_original_size(model, image):
    prediction = predict(model, image)
    mask = prediction.masks["seg"]
    assert mask.shape == (90, 130)
    json_rows = json.loads(json.dumps(prediction.to_json()))["seg"]
    assert [row["class"] for row in json_rows] == sorted(
        np.unique(mask).tolist(), key=lambda index: -(mask == index).sum()
    )
    for row in json_rows:
        assert row["segmentation"]["size"] == [90, 130]
        pixels = coco_masks.decode({**row["segmentation"], "counts": row["segmentation"]["counts"].encode()})
        assert np.array_equal(pixels.astype(bool), mask == row["class"])
    small = outputs_of(model, image)["seg/class_prediction"]
    nearest = [
        ((np.arange(side) + 0.5) * before / side).astype(int)
        for side, before in zip((90, 130), small.shape, strict=True)
    ]
    assert np.array_equal(mask, small[nearest[0][:, None], nearest[1]])


def test_other_classes_are_minus_one_in_a_mask(model, image):
    (best, *_) = predict(model, image).results["seg"]
    mask = predict(model, image, classes=[best["label"]]).masks["seg"]
    assert set(np.unique(mask)) <= {-1, best["class"]}


@pytest.fixture(scope="module")
def changed(model, tmp_path_factory) -> Path:
    """A folder of the model with other defaults."""
    folder = tmp_path_factory.mktemp("changed")
    model.save_pretrained(folder)
    changed = BrickCollection.from_pretrained(folder)
    for path, part in {
        "det/visualization": create_part("draw_boxes", labels=LABELS["det"], score_threshold=0.77),
        "cls/visualization": create_part("draw_classification", labels=LABELS["cls"], top=2),
    }.items():
        old = changed[path]
        changed[path] = BrickPerImageVisualization(part, old.input_names, old.output_names)
    changed.save_pretrained(folder)
    return folder


def test_defaults_are_stored_with_the_model(changed, model, image):
    results = predict(changed, image).results
    assert results["det"] == predict(model, image, threshold=0.77).results["det"]
    assert 0 < len(results["det"]) < len(predict(model, image).results["det"])
    assert len(results["cls"]) == 2


def test_the_image_size_can_be_changed(model, image):
    assert model["backbone"].provides.input.size != (64, 96)
    predictor = Predictor(model, device="cpu", image_size=(64, 96))
    assert predictor.reader.preprocess(Image.fromarray(image)).shape == (3, 64, 96)
    (prediction,) = predictor.predict(image)
    assert prediction.masks["seg"].shape == (90, 130)
    boxes = np.array([result["box"] for result in predictor_boxes(model, image)])
    assert boxes[:, [0, 2]].max() <= 130.01
    assert boxes[:, [1, 3]].max() <= 90.01


def predictor_boxes(model, image):
    return predict(model, image, image_size=(64, 96), threshold=0.0).results["det"]


def test_a_size_that_the_model_does_not_take_is_an_error(image):
    vit = create_model("test_vit_cls", num_classes=2)
    with pytest.raises(BrickInputError, match=r"expected images of 160x160 pixels .* found 96x90"):
        Predictor(vit, device="cpu", image_size=(96, 90))


@pytest.mark.slow
def test_defaults_are_kept_by_an_export(changed, image, tmp_path):
    export_onnx(BrickCollection.from_pretrained(changed), tmp_path / "model.onnx")
    by_torch, by_onnx = (predict(source, image).results for source in (changed, tmp_path / "model.onnx"))
    assert len(by_onnx["cls"]) == 2
    assert len(by_onnx["det"]) == len(by_torch["det"]) < len(predict(changed, image, threshold=0.3).results["det"])
    with pytest.raises(BrickInputError, match=r"image_size|Resize images to this size"):
        Predictor(tmp_path / "model.onnx", device="cpu", image_size=64)
