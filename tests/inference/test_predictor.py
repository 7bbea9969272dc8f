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
    """The probabilities that plain timm gives with the same weights."""
    theirs = timm.create_model("test_vit", num_classes=7).eval()
    theirs.load_state_dict(model["backbone"].model.state_dict(), strict=False)
    theirs.get_classifier().load_state_dict(model["cls/head"].model.state_dict())
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    with Image.open(file) as picture, torch.inference_mode():
        return theirs(transform(picture.convert("RGB"))[None]).softmax(1)[0]


def facts(prediction: Prediction) -> tuple:
    results = [
        (result["class"], pytest.approx(result["probability"], abs=1e-5)) for result in prediction.results["cls"]
    ]
    return prediction.file, prediction.size, results


def test_results_are_those_of_timm_s_transform_and_model(model, predictor):
    for prediction in predictor.predict(SAMPLES):
        expected = by_timm(model, prediction.file)
        best = expected.argsort(descending=True)[:5].tolist()
        assert [result["class"] for result in prediction.results["cls"]] == best
        assert [result["label"] for result in prediction.results["cls"]] == [f"thing {number}" for number in best]
        found = [result["probability"] for result in prediction.results["cls"]]
        assert found == pytest.approx(expected[best].tolist(), abs=2e-3)  # timm's own resize is on bytes as well


def test_the_shipped_model_knows_the_samples():
    best = {
        prediction.file.name: prediction.results["cls"][0]
        for prediction in Predictor("tf_efficientnet_lite0_cls.in1k", device="cpu").predict(SAMPLES)
    }
    assert best["chelsea.jpg"]["label"].endswith(" cat")
    assert best["coffee.jpg"]["label"] == "espresso"
    assert best["coffee.jpg"]["probability"] > 0.9
    assert "missile" in best["rocket.jpg"]["label"]


def test_batches_give_what_single_pictures_give(model, folder):
    alone = [facts(found) for found in Predictor(model, device="cpu", batch_size=1).predict(folder) if not found.error]
    together = [
        facts(found) for found in Predictor(model, device="cpu", batch_size=5).predict(folder) if not found.error
    ]
    assert [name for name, _, _ in alone] == [folder / f"{name}.png" for name in "abceg"]
    assert together == alone


def test_one_bad_file_does_not_stop_the_others(predictor, folder):
    predictions = list(predictor.predict(folder))
    assert [prediction.file.name[0] for prediction in predictions] == list("abcdefg")
    assert [prediction.file.name[0] for prediction in predictions if prediction.error] == ["d", "f"]
    assert predictions[3].error.startswith(str(folder / "d.jpg"))
    assert predictions[3].results == {}
    assert predictions[1].size == (40, 60)


def test_only_bad_files_are_no_error_either(predictor, folder):
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
def test_a_turned_photo_is_seen_upright(predictor, tmp_path, orientation):
    with Image.open(SAMPLES / "coffee.jpg") as picture:
        upright = picture.convert("RGB")
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.save(tmp_path / "upright.png")
    upright.transpose(turn).save(tmp_path / "turned.png", exif=exif)
    one, other = predictor.predict([tmp_path / "upright.png", tmp_path / "turned.png"])
    assert facts(one)[1:] == facts(other)[1:]


def test_pictures_of_every_mode_are_one_picture(predictor, tmp_path):
    with Image.open(SAMPLES / "chelsea.jpg") as picture:
        grey = picture.convert("L").resize((90, 60))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    variants = {"grey.png": grey, "rgb.png": grey.convert("RGB"), "rgba.png": grey.convert("RGBA"), "deep.png": deep}
    variants |= {"la.png": grey.convert("LA"), "floats.tif": floats}
    for name, variant in variants.items():
        variant.save(tmp_path / name)
    found = [facts(prediction)[2] for prediction in predictor.predict(tmp_path)]
    assert len(found) == len(variants)
    assert all(results == found[0] for results in found)


def test_pictures_are_drawn_when_asked_for(predictor, tmp_path):
    assert next(predictor.predict(SAMPLES / "coffee.jpg")).drawn is None
    drawn = next(predictor.predict(SAMPLES / "coffee.jpg", draw=True)).drawn
    with Image.open(SAMPLES / "coffee.jpg") as picture:
        assert np.array_equal(np.asarray(drawn)[: picture.height], np.asarray(picture.convert("RGB")))
    Image.new("RGB", (4000, 1000)).save(tmp_path / "wide.png")
    assert next(predictor.predict(tmp_path, draw=True)).drawn.width == 1600


def test_a_model_of_one_channel_sees_grey(folder):
    predictor = Predictor(create_model("test_resnet_cls", in_chans=1, num_classes=2), device="cpu")
    assert len(next(predictor.predict(folder / "a.png")).results["cls"]) == 2


def test_a_model_of_other_channels_is_refused_for_pictures(folder):
    with pytest.raises(BrickError, match="4"):
        next(Predictor(create_model("test_resnet_cls", in_chans=4), device="cpu").predict(folder / "a.png"))


def test_a_model_of_another_image_size_gets_pictures_of_that_size(folder):
    predictor = Predictor(create_model("vit_tiny_patch16_224_cls", num_classes=2, img_size=96), device="cpu")
    assert next(predictor.predict(folder / "a.png")).error is None


def test_the_model_that_was_given_stays_as_it_is():
    model = create_model("test_resnet_cls", num_classes=2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    predictor = Predictor(model, device="cpu")
    list(predictor.predict(SAMPLES / "coffee.jpg", draw=True))
    assert model["backbone"].training
    assert model["backbone"].model.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {"cls/loss", "cls/metrics", "cls/visualization"} <= set(model.bricks())


def test_nothing_to_do_is_no_prediction(predictor):
    assert list(predictor.predict([])) == []


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(model, size):
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(model, device="cpu", batch_size=size)


def test_a_place_that_is_not_there_is_told_before_anything_runs(predictor, folder):
    with pytest.raises(BrickInputError, match="nothing there"):
        next(predictor.predict([folder / "a.png", folder / "nowhere.png"]))


def test_threads_predict_at_once(predictor, folder):
    expected = [facts(found) for found in predictor.predict(folder) if not found.error]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: list(predictor.predict(folder, draw=True)), range(8)):
            assert [facts(each) for each in found if not each.error] == expected


@pytest.mark.parametrize("draw", [False, True])
def test_a_head_without_the_output_that_its_results_need_says_so(model, folder, draw):
    with pytest.raises(BrickMismatchError, match=r"(?s)Head 'cls' cannot say .*the outputs lack its"):
        list(Predictor(model, outputs=["cls/logits"]).predict(folder, draw=draw))
