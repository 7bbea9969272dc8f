import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import brickyard
from brickyard import (
    BrickCollection,
    BrickError,
    BrickInputError,
    BrickMismatchError,
    Prediction,
    Predictor,
    create_model,
)

SAMPLES = Path(brickyard.__file__).parent / "samples"


def by_timm(model: BrickCollection, file: Path) -> torch.Tensor:
    """The probabilities of the timm model with the same weights."""
    timm_model = timm.create_model("test_vit", num_classes=7).eval()
    timm_model.load_state_dict(model["backbone"].model.state_dict(), strict=False)
    timm_model.get_classifier().load_state_dict(model["cls/head"].model.state_dict())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(timm_model))
    with Image.open(file) as image, torch.inference_mode():
        return timm_model(transform(image.convert("RGB"))[None]).softmax(1)[0]


def summary(prediction: Prediction) -> tuple:
    results = [
        (result["class"], pytest.approx(result["probability"], abs=1e-5)) for result in prediction.results["cls"]
    ]
    return prediction.file, prediction.size, results


def test_results_are_those_of_timm_s_transform_and_model(model, predictor):
    for prediction in predictor.predict(SAMPLES):
        expected = by_timm(model, prediction.file)
        best = expected.argsort(descending=True)[:5].tolist()
        assert [result["class"] for result in prediction.results["cls"]] == best
        assert [result["label"] for result in prediction.results["cls"]] == [f"class {number}" for number in best]
        probabilities = [result["probability"] for result in prediction.results["cls"]]
        assert probabilities == pytest.approx(expected[best].tolist(), abs=2e-3)  # timm resizes uint8 images, too


def test_the_shipped_model_recognizes_the_samples():
    best = {
        prediction.file.name: prediction.results["cls"][0]
        for prediction in Predictor("tf_efficientnet_lite0_cls.in1k", device="cpu").predict(SAMPLES)
    }
    assert best["chelsea.jpg"]["label"].endswith(" cat")
    assert best["coffee.jpg"]["label"] == "espresso"
    assert best["coffee.jpg"]["probability"] > 0.9
    assert "missile" in best["rocket.jpg"]["label"]


def test_results_do_not_depend_on_the_batch_size(model, folder):
    single = [
        summary(prediction)
        for prediction in Predictor(model, device="cpu", batch_size=1).predict(folder)
        if not prediction.error
    ]
    together = [
        summary(prediction)
        for prediction in Predictor(model, device="cpu", batch_size=5).predict(folder)
        if not prediction.error
    ]
    assert [name for name, _, _ in single] == [folder / f"{name}.png" for name in "abceg"]
    assert together == single


def test_one_unreadable_file_does_not_stop_the_others(predictor, folder):
    predictions = list(predictor.predict(folder))
    assert [prediction.file.name[0] for prediction in predictions] == list("abcdefg")
    assert [prediction.file.name[0] for prediction in predictions if prediction.error] == ["d", "f"]
    assert predictions[3].error.startswith(str(folder / "d.jpg"))
    assert predictions[3].results == {}
    assert predictions[1].size == (40, 60)


def test_only_unreadable_files_are_no_error(predictor, folder):
    assert all(prediction.error for prediction in predictor.predict([folder / "d.jpg", folder / "f.png"]))


def test_predictions_are_json(predictor, folder):
    good, bad = predictor.predict([folder / "a.png", folder / "d.jpg"])
    assert json.loads(json.dumps(good.to_json())) == {
        "file": str(folder / "a.png"),
        "width": 60,
        "height": 40,
        **good.results,
    }
    assert set(bad.to_json()) == {"file", "error"}


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_images_are_rotated_by_their_exif_orientation(predictor, tmp_path, orientation):
    with Image.open(SAMPLES / "coffee.jpg") as image:
        upright = image.convert("RGB")
    rotation = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.save(tmp_path / "upright.png")
    upright.transpose(rotation).save(tmp_path / "rotated.png", exif=exif)
    one, other = predictor.predict([tmp_path / "upright.png", tmp_path / "rotated.png"])
    assert summary(one)[1:] == summary(other)[1:]


def test_images_of_every_mode_have_the_same_results(predictor, tmp_path):
    with Image.open(SAMPLES / "chelsea.jpg") as image:
        grey = image.convert("L").resize((90, 60))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    variants = {"grey.png": grey, "rgb.png": grey.convert("RGB"), "rgba.png": grey.convert("RGBA"), "deep.png": deep}
    variants |= {"la.png": grey.convert("LA"), "floats.tif": floats}
    for name, variant in variants.items():
        variant.save(tmp_path / name)
    results = [summary(prediction)[2] for prediction in predictor.predict(tmp_path)]
    assert len(results) == len(variants)
    assert all(each == results[0] for each in results)


def test_results_are_drawn_on_request(predictor, tmp_path):
    assert next(predictor.predict(SAMPLES / "coffee.jpg")).visualization is None
    drawn = next(predictor.predict(SAMPLES / "coffee.jpg", draw=True)).visualization
    with Image.open(SAMPLES / "coffee.jpg") as image:
        assert np.array_equal(np.asarray(drawn)[: image.height], np.asarray(image.convert("RGB")))
    Image.new("RGB", (4000, 1000)).save(tmp_path / "wide.png")
    assert next(predictor.predict(tmp_path, draw=True)).visualization.width == 1600


def test_a_model_of_one_channel_gets_grayscale_images(folder):
    predictor = Predictor(create_model("test_resnet_cls", in_chans=1, num_classes=2), device="cpu")
    assert len(next(predictor.predict(folder / "a.png")).results["cls"]) == 2


def test_image_files_need_a_model_of_one_or_three_channels(folder):
    with pytest.raises(BrickError, match="4"):
        next(Predictor(create_model("test_resnet_cls", in_chans=4), device="cpu").predict(folder / "a.png"))


def test_images_are_resized_to_the_image_size_of_the_model(folder):
    predictor = Predictor(create_model("vit_tiny_patch16_224_cls", num_classes=2, img_size=96), device="cpu")
    assert next(predictor.predict(folder / "a.png")).error is None


def test_the_model_is_not_changed():
    model = create_model("test_resnet_cls", num_classes=2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    predictor = Predictor(model, device="cpu")
    list(predictor.predict(SAMPLES / "coffee.jpg", draw=True))
    assert model["backbone"].training
    assert model["backbone"].model.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {"cls/loss", "cls/metrics", "cls/visualization"} <= set(model.bricks())


def test_no_sources_give_no_predictions(predictor):
    assert list(predictor.predict([])) == []


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_1_is_refused(model, size):
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(model, device="cpu", batch_size=size)


def test_a_missing_source_is_an_error_before_anything_runs(predictor, folder):
    with pytest.raises(BrickInputError, match=r"nowhere\.png"):
        next(predictor.predict([folder / "a.png", folder / "nowhere.png"]))


def test_threads_can_predict_in_parallel(predictor, folder):
    expected = [summary(prediction) for prediction in predictor.predict(folder) if not prediction.error]
    with ThreadPoolExecutor(4) as pool:
        for predictions in pool.map(lambda _: list(predictor.predict(folder, draw=True)), range(8)):
            assert [summary(each) for each in predictions if not each.error] == expected


@pytest.mark.parametrize("draw", [False, True])
def test_a_missing_output_is_an_error_that_names_the_head(model, folder, draw):
    with pytest.raises(BrickMismatchError, match=r"(?s)head 'cls' cannot be computed.*its output .* is missing"):
        list(Predictor(model, outputs=["cls/logits"]).predict(folder, draw=draw))
