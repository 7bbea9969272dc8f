"""Folders and repos that timm wrote, as backbones and classifiers."""

import json
import warnings

import pytest
import timm
import torch

from brickyard import BrickCollection, BrickError, BrickMismatchError, UnsafeBrickError, create_model, inspect_brick

NAMES = ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"]
IMAGE = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def written(tmp_path):
    """From a timm model to the folder that timm writes of it."""

    def write(model, **config):
        timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True, model_config=config or None)
        return tmp_path / "timm"

    return write


def outputs_of(model, brick_model):
    """What timm's model gives for a picture, with the means and deviations of its own."""
    config = timm.data.resolve_data_config(model=model)
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return model.eval()((IMAGE - mean) / std), brick_model.eval()({"image": IMAGE}, outputs="cls/logits")[
            "cls/logits"
        ]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_timm_s_is_a_classifier(name, written):
    theirs = timm.create_model(name, num_classes=7)
    model = BrickCollection.from_pretrained(written(theirs))
    torch.testing.assert_close(*outputs_of(theirs, model))
    assert set(model.bricks()) >= {"preprocessor", "backbone", "cls/head"}


def test_a_repo_of_timm_s_is_a_backbone_with_its_classifier_left_or_taken(written, hub):
    theirs = timm.create_model("test_resnet", num_classes=7)
    folder = written(theirs, label_names=list("abcdefg"))
    hub.put("timm/model", {file.name: file.read_bytes() for file in folder.iterdir()})
    model = create_model("test_resnet_cls_seg-lraspp", num_classes={"cls": 2, "seg": 3})
    model.swap("backbone", "hf://timm/model")
    head = model["cls/head"]
    expected = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    found = model["backbone"].model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert model["cls/head"] is head
    model.swap("cls", "hf://timm/model/cls")
    torch.testing.assert_close(*outputs_of(theirs, model))
    assert list(model["cls/head"].head.labels) == list("abcdefg")
    assert inspect_brick("hf://timm/model/cls").labels == list("abcdefg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alike = create_model("test_resnet_cls", num_classes=7, bricks={"backbone": "hf://timm/model"})
    alike.swap("cls", "hf://timm/model")
    torch.testing.assert_close(*outputs_of(theirs, alike))


def test_a_classifier_does_not_fit_another_backbone(written):
    folder = written(timm.create_model("test_resnet", num_classes=7))
    model = create_model("test_resnet_cls", num_classes=3)
    with pytest.raises(BrickMismatchError, match="weights of the backbone"):
        model.swap("cls", folder)
    model.swap("cls", folder, check="input")
    assert model["cls/head"].model.out_features == 7


def test_a_model_of_timm_s_is_saved_pushed_and_referred_to(written, hub, tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=7)
    folder = written(theirs)
    hub.put("timm/model", {file.name: file.read_bytes() for file in folder.iterdir()})
    model = BrickCollection.from_pretrained("hf://timm/model")
    model.push_to_hub("owner/model", refer=["backbone"])
    assert "backbone.safetensors" not in hub.files("owner/model")
    torch.testing.assert_close(*outputs_of(theirs, BrickCollection.from_pretrained("owner/model")))
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(*outputs_of(theirs, BrickCollection.from_pretrained(tmp_path / "saved")))


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "../x"},
        {"architecture": 3},
        {"architecture": None},
        {"architecture": "hf-hub:user/repo"},
        {"model_args": {"checkpoint_path": "/elsewhere/x.pth"}},
        {"model_args": {"pretrained": True}},
        {"model_args": {"pretrained_cfg_overlay": {"url": "file:///x"}}},
        {"model_args": {"layers": [10**6, 1, 1, 1]}},
        {"model_args": [1]},
        {"num_classes": 10**12},
        {"num_classes": "many"},
        {"num_classes": -1},
        {"num_classes": 8},
        {"pretrained_cfg": 3},
        {"pretrained_cfg": {"classifier": 3}},
        {"label_names": 3},
        {"label_names": ["a"]},
        {"in_chans": 3, "model_args": {"in_chans": 4}},
    ],
    ids=str,
)
def test_a_configuration_of_no_sense_is_refused(change, written):
    folder = written(timm.create_model("test_resnet", num_classes=7))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(BrickError):
        BrickCollection.from_pretrained(folder)


def test_the_configuration_of_another_library_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsafeBrickError, match="is not timm's"):
        BrickCollection.from_pretrained(tmp_path)
