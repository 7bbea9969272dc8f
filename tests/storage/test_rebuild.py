"""Stored heads with arguments of their own keep them for other classes, channels and models."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from brickyard import BrickCollection, create_model
from brickyard.storage.config import describe, make_brick

IMAGE = {"image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))}
STRIDES = [8, 16, 32, 64, 128]


def with_arguments(model, path, **arguments):
    """The brick at a path, built with further arguments."""
    config = describe(model[path])
    return make_brick({**config, "args": {**config["args"], **arguments}}, path)


def wide_model(name="test_resnet_det", **labels):
    """A detector with a pyramid of 96 channels, torchvision's anchors and another threshold."""
    torch.manual_seed(0)
    model = create_model(name, **labels)
    head = with_arguments(model, "det/head", width=96, torchvision_anchors=True)
    head.head = replace(head.head, image_size=(64, 96), resize_mode="letterbox", weights_tag="wide")
    head.metadata = {"licence": "mit", "source": "somewhere"}
    model.update({"det/head": head, "det/decode": with_arguments(model, "det/decode", strides=STRIDES, count=7)})
    return model


@pytest.fixture
def stored(tmp_path):
    wide_model(labels=["a", "b", "c"]).save_pretrained(tmp_path / "stored")
    return tmp_path / "stored"


def run(model):
    with torch.no_grad():
        return model.eval()(IMAGE, tags={"MODEL", "INFERENCE"})


@pytest.mark.parametrize("changes", [{"num_classes": 5}, {"labels": ["x", "y", "c", "z"]}], ids=str)
def test_a_head_for_other_classes_keeps_its_arguments_and_all_but_the_rows_of_the_classes(stored, changes):
    before = BrickCollection.from_pretrained(stored)
    with pytest.warns(UserWarning, match="'det/head' starts with fresh weights for the classes"):
        after = create_model(f"local-dir:{stored}", **changes)
    old, new = before["det/head"].model.state_dict(), after["det/head"].model.state_dict()
    of_classes = [key for key in old if old[key].shape != new[key].shape]
    assert of_classes == ["head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias"]
    assert all(torch.equal(old[key], new[key]) for key in old if key not in of_classes)
    if "labels" in changes:
        assert all(torch.equal(old[key][2], new[key][2]) for key in of_classes)
    assert after["det/decode"].model.count == 7
    info = after["det/head"].head
    assert (info.image_size, info.resize_mode, info.weights_tag) == ((64, 96), "letterbox", "wide")
    assert after["det/head"].metadata == {"licence": "mit", "source": "somewhere"}
    assert torch.equal(run(before)["det/anchors"], run(after)["det/anchors"])
    assert run(after)["det/logits"].shape[-1] == len(info.labels) == len(changes.get("labels", range(5)))


def test_a_head_keeps_its_arguments_and_weights_on_images_of_other_channels(stored):
    before = BrickCollection.from_pretrained(stored)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = create_model(f"local-dir:{stored}", in_chans=1, drop_path_rate=0.1)
    old, new = before["det/head"].model.state_dict(), after["det/head"].model.state_dict()
    assert all(torch.equal(old[key], new[key]) for key in old)
    assert after["det/head"].head.labels == ("a", "b", "c")
    assert after["det/decode"].model.count == 7
    assert after["backbone"].provides.input.channels == 1


def test_the_images_that_a_stored_backbone_declares_stay_with_other_channels(tmp_path):
    model = wide_model(labels=["a", "b"])
    provides = model["backbone"].provides
    model["backbone"].provides = replace(provides, input=replace(provides.input, size=(72, 88), crop_pct=0.5))
    model.save_pretrained(tmp_path)
    images = create_model(f"local-dir:{tmp_path}", in_chans=1)["backbone"].provides.input
    assert (images.channels, images.size, images.crop_pct, len(images.mean)) == (1, (72, 88), 0.5, 1)


@pytest.mark.parametrize("name", ["det", "boxes"])
def test_a_head_brings_its_decoder_to_another_model(stored, name):
    source = BrickCollection.from_pretrained(stored)
    model = create_model("test_resnet_cls", num_classes=2)
    model.swap("backbone", stored)
    model.swap(name, f"{stored}/det")
    expected, outputs = run(source), run(model)
    assert model[f"{name}/decode"].model.count == 7
    for output in ("boxes", "scores", "labels"):
        assert torch.equal(outputs[f"{name}/{output}"], expected[f"det/{output}"])


def test_a_head_of_the_same_classes_brings_its_decoder_and_leaves_the_loss(stored):
    model = create_model("test_resnet_det", labels=["a", "b", "c"])
    model.swap("backbone", stored)
    loss, metrics = model["det/loss"], model["det/metrics"]
    model.swap("det", stored)
    expected, outputs = run(BrickCollection.from_pretrained(stored)), run(model)
    assert torch.equal(outputs["det/boxes"], expected["det/boxes"])
    assert (model["det/loss"] is loss, model["det/metrics"] is metrics) == (True, True)


def test_a_head_that_was_pushed_without_its_decoder_gets_the_default_one(stored):
    manifest = json.loads((stored / "bricks.json").read_text())
    for path in [path for path in manifest["bricks"] if path != "det/head"]:
        (stored / f"{path}.json").unlink()
        del manifest["bricks"][path]
    (stored / "bricks.json").write_text(json.dumps(manifest))
    model = create_model("test_resnet_cls", num_classes=2)
    model.swap("det", f"{stored}/det", check="shape")
    assert model["det/decode"].model.count == 100


def test_a_head_without_weights_that_other_classes_share_starts_fresh(tmp_path):
    create_model("test_resnet_cls", num_classes=3).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="'cls/head' starts with fresh weights: no trained weights fit it"):
        model = create_model(f"local-dir:{tmp_path}", labels=["x", "y"])
    assert model["cls/head"].head.trained is None
