import json
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
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
    MissingInputError,
    Prediction,
    Predictor,
    Stage,
    create_model,
)

SAMPLES = Path(brickyard.__file__).parent / "samples"


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    return create_model("test_vit_cls", labels=[f"thing {number}" for number in range(7)]).eval()


@pytest.fixture
def predictor(model) -> Predictor:
    return Predictor(model, device="cpu", batch_size=2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five pictures of different sizes, and two files that are none."""
    generator = np.random.default_rng(0)
    for name, (height, width) in {"a": (40, 60), "b": (60, 40), "c": (33, 33), "e": (200, 90), "g": (90, 200)}.items():
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "d.jpg").write_text("no picture")
    (tmp_path / "f.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    return tmp_path


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


def test_arrays_go_in_and_come_out(model, predictor):
    image = np.random.default_rng(0).random((3, 3, 160, 160), dtype=np.float32)
    outputs = predictor({"image": image})
    assert set(outputs) >= {"cls/logits", "cls/probabilities", "cls/class_prediction"}
    with torch.inference_mode():
        expected = model({"image": torch.from_numpy(image)}, tags=Stage.INFERENCE.tags)
    for name, array in outputs.items():
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, expected[name].numpy(), rtol=1e-5, atol=1e-6)


def test_arrays_of_any_layout_are_taken(predictor):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 160, 160, 3), dtype=np.uint8)
    mirrored = pixels[:, :, ::-1].transpose(0, 3, 1, 2)  # a view with negative strides
    expected = predictor({"image": np.ascontiguousarray(mirrored)})["cls/logits"]
    np.testing.assert_allclose(predictor({"image": mirrored})["cls/logits"], expected, rtol=1e-5)
    fixed = np.ascontiguousarray(mirrored)
    fixed.flags.writeable = False  # as numpy makes them from pictures of Pillow
    np.testing.assert_allclose(predictor({"image": fixed})["cls/logits"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 160, 160), np.uint8),
        np.zeros((1, 160, 160, 3), np.uint8),
        np.zeros((1, 3, 160, 160), np.uint16),
        np.full((1, 3, 160, 160), 255.0),
    ],
    ids=["rank", "channels last", "uint16", "255"],
)
def test_arrays_that_are_no_images_are_refused(predictor, image):
    with pytest.raises(BrickInputError, match=r"expected .*, found"):
        predictor({"image": image})


def test_the_model_that_was_given_stays_as_it_is():
    model = create_model("test_resnet_cls", num_classes=2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    predictor = Predictor(model, device="cpu")
    list(predictor.predict(SAMPLES / "coffee.jpg", draw=True))
    assert model["backbone"].training
    assert model["backbone"].model.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {"cls/loss", "cls/metrics", "cls/picture"} <= set(model.bricks())


def test_nothing_to_do_is_no_prediction(predictor):
    assert list(predictor.predict([])) == []


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(model, size):
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(model, device="cpu", batch_size=size)


def test_a_place_that_is_not_there_is_told_before_anything_runs(predictor, folder):
    with pytest.raises(BrickInputError, match="nothing there"):
        next(predictor.predict([folder / "a.png", folder / "nowhere.png"]))


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    model.save_pretrained(folder)
    return folder


def batch_of(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((size, 3, 160, 160), dtype=np.float32)


def by_hand(model: BrickCollection, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model({"image": torch.from_numpy(image)}, tags=Stage.INFERENCE.tags)["cls/logits"].numpy()


def test_a_folder_is_a_source_by_its_path_as_well(model, stored, monkeypatch):
    image = batch_of(1)
    monkeypatch.chdir(stored.parent)
    for source in (stored, str(stored), f"local-dir:{stored}", stored.name):
        found = Predictor(source, device="cpu")({"image": image})["cls/logits"]
        np.testing.assert_allclose(found, by_hand(model, image), rtol=1e-5, atol=1e-6)


def test_a_lock_is_a_source(tmp_path):
    name = "tf_efficientnet_lite0_cls.in1k"
    trained = create_model(name, pretrained=True).eval()
    trained.lock(tmp_path / "x.lock.json")
    image = np.random.default_rng(0).random((1, 3, 224, 224), dtype=np.float32)
    for source in (tmp_path / "x.lock.json", str(tmp_path / "x.lock.json")):
        found = Predictor(source, device="cpu")({"image": image})["cls/logits"]
        np.testing.assert_allclose(found, by_hand(trained, image), rtol=1e-4, atol=1e-5)


def test_columns_that_the_model_does_not_read_stay_with_their_rows(model, predictor):
    image = batch_of(3)
    paths, numbers = np.array(["a", "b", "c"]), np.arange(3)
    outputs = predictor({"path": paths, "image": image, "number": numbers})
    assert list(outputs)[:2] == ["path", "number"]
    assert outputs["path"] is paths
    assert outputs["number"] is numbers
    assert "image" not in outputs
    np.testing.assert_allclose(outputs["cls/logits"], by_hand(model, image), rtol=1e-5, atol=1e-6)


def test_a_column_with_the_name_of_an_output_is_refused(predictor):
    with pytest.raises(BrickInputError, match="cls/logits"):
        predictor({"image": batch_of(1), "cls/logits": np.zeros(1)})


def test_a_batch_without_images_is_refused_with_the_columns_that_there_are(predictor):
    with pytest.raises(MissingInputError, match=r"'image'.*'imaged', 'path'.*Did you mean 'imaged'"):
        predictor({"imaged": batch_of(1), "path": np.array(["a"])})


def test_images_of_several_sizes_in_one_batch_are_refused(predictor):
    images = np.empty(2, dtype=object)
    images[:] = [np.zeros((3, 160, 160), np.uint8), np.zeros((3, 90, 160), np.uint8)]
    with pytest.raises(BrickInputError, match="several sizes"):
        predictor({"image": images})


def test_threads_that_call_at_once_get_what_single_calls_give():
    torch.manual_seed(0)
    trained = create_model("test_resnet_cls_seg_det", num_classes={"cls": 3, "seg": 4, "det": 5})
    batches = [np.random.default_rng(seed).random((1 + seed % 3, 3, 64, 64), dtype=np.float32) for seed in range(6)]
    expected = [Predictor(trained, device="cpu")({"image": image}) for image in batches]
    for _ in range(2):
        fresh = Predictor(trained, device="cpu")
        together = threading.Barrier(len(batches))

        def call(image: np.ndarray, fresh: Predictor = fresh, together: threading.Barrier = together) -> dict:
            together.wait()  # the first call plans: all of them are the first
            return fresh({"image": image})

        with ThreadPoolExecutor(len(batches)) as pool:
            found = list(pool.map(call, batches))
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            for name, array in one.items():
                np.testing.assert_allclose(array, other[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_threads_predict_at_once(predictor, folder):
    expected = [facts(found) for found in predictor.predict(folder) if not found.error]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: list(predictor.predict(folder, draw=True)), range(8)):
            assert [facts(each) for each in found if not each.error] == expected


@pytest.mark.slow
def test_a_spawned_process_builds_its_own(model, stored, monkeypatch):
    image = batch_of(2)
    monkeypatch.chdir(stored.parent)
    sent = Predictor(f"local-dir:{stored.name}", device="cpu", batch_size=3, outputs=["cls/logits"])
    monkeypatch.chdir("/")  # where the other process runs
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        outputs = pool.submit(sent, {"image": image}).result()
    assert set(outputs) == {"cls/logits"}
    np.testing.assert_allclose(outputs["cls/logits"], by_hand(model, image), rtol=1e-5, atol=1e-6)


def test_what_is_pickled_is_the_source_and_not_the_weights(stored):
    text = pickle.dumps(Predictor(stored, device="cpu", batch_size=3))
    assert len(text) < 1000
    assert pickle.loads(text).batch_size == 3


def test_a_model_in_memory_is_not_pickled(predictor):
    with pytest.raises(TypeError, match="make it of a name"):
        pickle.dumps(predictor)


def test_hashes_tell_models_apart(model, stored):
    other = create_model("test_vit_cls", num_classes=7)
    assert Predictor(stored, device="cpu").hashes() == Predictor(model, device="cpu").hashes()
    differ = {
        path
        for path, text in Predictor(other, device="cpu").hashes().items()
        if Predictor(model, device="cpu").hashes()[path] != text
    }
    assert differ == {"backbone", "cls/head"}


@pytest.mark.parametrize("draw", [False, True])
def test_a_head_without_the_output_that_its_results_need_says_so(model, folder, draw):
    with pytest.raises(BrickMismatchError, match=r"(?s)Head 'cls' cannot say .*the outputs lack its"):
        list(Predictor(model, outputs=["cls/logits"]).predict(folder, draw=draw))
