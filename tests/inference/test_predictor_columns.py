"""The predictor in engines: called with columns, from threads and in other processes."""

import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from brickyard import BrickCollection, BrickInputError, MissingInputError, Predictor, Stage, create_model


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
    fixed.flags.writeable = False  # like arrays made from Pillow images
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
def test_invalid_image_arrays_are_refused(predictor, image):
    with pytest.raises(BrickInputError, match=r"expected .*, found"):
        predictor({"image": image})


def test_a_folder_is_a_source_by_path_and_by_uri(model, stored, monkeypatch):
    image = batch_of(1)
    monkeypatch.chdir(stored.parent)
    for source in (stored, str(stored), f"local-dir:{stored}", stored.name):
        logits = Predictor(source, device="cpu")({"image": image})["cls/logits"]
        np.testing.assert_allclose(logits, by_hand(model, image), rtol=1e-5, atol=1e-6)


def test_a_lock_is_a_source(tmp_path):
    name = "tf_efficientnet_lite0_cls.in1k"
    trained = create_model(name, pretrained=True).eval()
    trained.lock(tmp_path / "x.lock.json")
    image = np.random.default_rng(0).random((1, 3, 224, 224), dtype=np.float32)
    for source in (tmp_path / "x.lock.json", str(tmp_path / "x.lock.json")):
        logits = Predictor(source, device="cpu")({"image": image})["cls/logits"]
        np.testing.assert_allclose(logits, by_hand(trained, image), rtol=1e-4, atol=1e-5)


def test_columns_that_the_model_does_not_read_are_returned(model, predictor):
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


def test_a_batch_without_images_is_an_error_that_lists_the_columns(predictor):
    with pytest.raises(MissingInputError, match=r"'image'.*'imaged', 'path'.*Did you mean 'imaged'"):
        predictor({"imaged": batch_of(1), "path": np.array(["a"])})


def test_images_of_several_sizes_in_one_batch_are_refused(predictor):
    images = np.empty(2, dtype=object)
    images[:] = [np.zeros((3, 160, 160), np.uint8), np.zeros((3, 90, 160), np.uint8)]
    with pytest.raises(BrickInputError, match="several sizes"):
        predictor({"image": images})


def test_parallel_calls_return_the_results_of_single_calls():
    torch.manual_seed(0)
    trained = create_model("test_resnet_cls_seg_det", num_classes={"cls": 3, "seg": 4, "det": 5})
    batches = [np.random.default_rng(seed).random((1 + seed % 3, 3, 64, 64), dtype=np.float32) for seed in range(6)]
    expected = [Predictor(trained, device="cpu")({"image": image}) for image in batches]
    for _ in range(2):
        fresh = Predictor(trained, device="cpu")
        together = threading.Barrier(len(batches))

        def call(image: np.ndarray, fresh: Predictor = fresh, together: threading.Barrier = together) -> dict:
            together.wait()  # all calls are the first one, which makes the plan
            return fresh({"image": image})

        with ThreadPoolExecutor(len(batches)) as pool:
            outputs = list(pool.map(call, batches))
        for one, other in zip(outputs, expected, strict=True):
            assert one.keys() == other.keys()
            for name, array in one.items():
                np.testing.assert_allclose(array, other[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_spawned_process_loads_the_model_again(model, stored, monkeypatch):
    image = batch_of(2)
    monkeypatch.chdir(stored.parent)
    sent = Predictor(f"local-dir:{stored.name}", device="cpu", batch_size=3, outputs=["cls/logits"])
    monkeypatch.chdir("/")  # the working folder of the other process
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        outputs = pool.submit(sent, {"image": image}).result()
    assert set(outputs) == {"cls/logits"}
    np.testing.assert_allclose(outputs["cls/logits"], by_hand(model, image), rtol=1e-5, atol=1e-6)


def test_the_source_is_pickled_and_not_the_weights(stored):
    text = pickle.dumps(Predictor(stored, device="cpu", batch_size=3))
    assert len(text) < 1000
    assert pickle.loads(text).batch_size == 3


def test_a_model_in_memory_cannot_be_pickled(predictor):
    with pytest.raises(TypeError, match="create it from a name"):
        pickle.dumps(predictor)


def test_hashes_differ_for_different_models(model, stored):
    other = create_model("test_vit_cls", num_classes=7)
    assert Predictor(stored, device="cpu").hashes() == Predictor(model, device="cpu").hashes()
    differ = {
        path
        for path, text in Predictor(other, device="cpu").hashes().items()
        if Predictor(model, device="cpu").hashes()[path] != text
    }
    assert differ == {"backbone", "cls/head"}
