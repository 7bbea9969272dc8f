import json
import warnings
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from brickyard import (
    BrickCollection,
    BrickInputError,
    MissingInputError,
    Tag,
    UnknownNameError,
    create_model,
)
from tests.private_names import TIMM_DOWNLOAD
from tests.toys import run_python

NAMES = ("test_resnet", "test_vit", "test_convnext")


def normalised(image: Tensor, name: str) -> Tensor:
    config = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))
    return (image - mean) / std


def logits(model: BrickCollection, image: Tensor) -> Tensor:
    return model.eval()({"image": image}, tags={Tag.MODEL})["cls/logits"]


def same_weights(ours: nn.Module, theirs: nn.Module) -> bool:
    state = theirs.state_dict()
    return all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())


@pytest.fixture
def timm_weights(monkeypatch) -> nn.Module:
    """What timm then downloads for test_resnet: the weights of this model."""
    source = timm.create_model("test_resnet")
    monkeypatch.setattr(
        TIMM_DOWNLOAD,
        lambda *args, **kwargs: {key: value.clone() for key, value in source.state_dict().items()},
    )
    return source.eval()


@pytest.fixture
def saved(tmp_path) -> Path:
    create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_the_timm_model_with_the_same_weights(name):
    model = create_model(f"{name}_cls", num_classes=7).eval()
    theirs = timm.create_model(name, num_classes=7).eval()
    theirs.load_state_dict(model["backbone"].model.state_dict(), strict=False)
    theirs.get_classifier().load_state_dict(model["cls/head"].model.state_dict())
    image = torch.rand(2, 3, 160, 160)
    outputs = model({"image": image}, tags={Tag.MODEL})
    expected = theirs(normalised(image, name))
    torch.testing.assert_close(outputs["cls/logits"], expected)
    torch.testing.assert_close(outputs["cls/probabilities"], expected.softmax(1))
    assert torch.equal(outputs["cls/class_prediction"], expected.argmax(1))
    torch.testing.assert_close(outputs["normalized"], normalised(image, name))


def test_bytes_and_floats_are_the_same_picture():
    model = create_model("test_resnet_cls", num_classes=4)
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(logits(model, pixels), logits(model, pixels / 255))


def test_a_training_step_changes_backbone_and_head():
    model = create_model("test_resnet_cls", num_classes=4)
    batch = {"image": torch.rand(4, 3, 64, 64), "targets/cls": torch.tensor([0, 1, 2, 3])}
    outputs = model(batch, tags={Tag.MODEL, Tag.LOSS, Tag.METRIC})
    losses = model.extract_losses(outputs)
    assert list(losses) == ["cls/loss"]
    torch.testing.assert_close(losses["cls/loss"], nn.functional.cross_entropy(outputs["cls/logits"], torch.arange(4)))
    losses["cls/loss"].backward()
    for path in ("backbone", "cls/head"):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in model[path].parameters())
    right = (outputs["cls/logits"].argmax(1) == torch.arange(4)).float().mean()
    assert model.summarize(reset=True)["cls/Accuracy"] == right


def test_classes_are_1000_or_as_many_as_asked_for():
    assert create_model("test_resnet_cls")["cls/head"].model.out_features == 1000
    assert create_model("test_resnet_cls", num_classes=5)["cls/head"].model.out_features == 5
    assert create_model("test_resnet_cls", num_classes={"cls": 6})["cls/head"].model.out_features == 6
    model = create_model("test_resnet_cls", labels=["cat", "dog"])
    assert model["cls/head"].model.out_features == 2
    assert list(model["cls/head"].head.labels) == ["cat", "dog"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 0},
        {"num_classes": -3},
        {"num_classes": "4"},
        {"num_classes": {"seg": 3}},
        {"num_classes": {"cls": 0}},
        {"labels": []},
        {"labels": "cat"},  # a string is a sequence of letters
        {"labels": ["a", "b"], "num_classes": 3},
        {"labels": {"other": ["a"]}},
        {"in_chans": 0},
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(arguments):
    with pytest.raises(BrickInputError):
        create_model("test_resnet_cls", **arguments)


def test_channels_and_options_go_to_timm():
    model = create_model("test_resnet_cls", num_classes=3, in_chans=5, drop_path_rate=0.25)
    theirs = timm.create_model("test_resnet", num_classes=0, in_chans=5, drop_path_rate=0.25)
    assert repr(model["backbone"].model) == repr(theirs)
    assert logits(model, torch.rand(1, 5, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("size", [96, (96, 64)])
def test_a_plain_transformer_takes_another_image_size(size):
    model = create_model("vit_tiny_patch16_224_cls", num_classes=2, img_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert logits(model, torch.rand(1, 3, height, width)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("reznet18_cls", "resnet18_cls"),
        ("resnet18", "resnet18_cls"),
        ("resnet18_clz", "cls"),
        ("resnet18_cls-liner", "cls-linear"),
        ("resnet18_cls.a1_in2k", "a1_in1k"),
        ("resnet50_clip_gapp_cls", "resnet50_clip_gap_cls"),
    ],
)
@pytest.mark.parametrize("pretrained", [False, True])
def test_an_unknown_name_shows_the_nearest(name, nearest, pretrained):
    with pytest.raises(UnknownNameError) as caught:
        create_model(name, pretrained=pretrained)
    assert f"'{nearest}'" in str(caught.value)


def test_a_backbone_that_timm_has_no_weights_for_is_told():
    small = ("ghostnet_050", "ghostnet_130", "efficientnet_lite1", "efficientnet_lite2")
    name = next(name for name in small if not timm.list_models(f"{name}.*", pretrained=True))
    with pytest.raises(UnknownNameError, match="timm has no weights"):
        create_model(f"{name}_cls", pretrained=True)


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(3, 160, 160),
        torch.rand(1, 1, 160, 160),
        torch.rand(1, 4, 160, 160),
        torch.zeros(1, 3, 160, 160, dtype=torch.int64),
        torch.zeros(1, 3, 160, 160, dtype=torch.bool),
        torch.rand(1, 3, 160, 160) * 255,
        torch.rand(1, 3, 160, 160) - 1,
        torch.full((1, 3, 160, 160), torch.nan),
        torch.rand(1, 3, 100, 160),  # no whole number of patches
        torch.rand(1, 3, 0, 0),
    ],
    ids=["rank", "grey", "rgba", "int64", "bool", "255", "negative", "nan", "patches", "empty"],
)
def test_an_image_that_the_model_cannot_take_is_refused(image):
    model = create_model("test_vit_cls", num_classes=2)
    with pytest.raises(BrickInputError, match=r"expected .*, found"):
        logits(model, image)


def test_a_label_that_is_no_class_is_refused():
    model = create_model("test_resnet_cls", num_classes=3)
    with pytest.raises(BrickInputError, match=r"expected .*, found"):
        model({"image": torch.rand(2, 3, 64, 64), "targets/cls": torch.tensor([0, 3])}, tags={Tag.MODEL, Tag.LOSS})


def test_an_image_under_another_name_is_missed():
    with pytest.raises(MissingInputError, match=r"Did you mean 'img'\?|Given: \['img'\]"):
        create_model("test_resnet_cls")({"img": torch.rand(1, 3, 64, 64)}, tags={Tag.MODEL})


def test_timm_s_weights_come_with_its_classifier_and_its_class_names(timm_weights, caplog):
    caplog.set_level("INFO")
    model = create_model("test_resnet_cls", pretrained=True)
    image = torch.rand(2, 3, 160, 160)
    assert torch.equal(logits(model, image), timm_weights(normalised(image, "test_resnet")))
    names = timm.data.ImageNetInfo("imagenet-1k").label_descriptions()
    assert list(model["cls/head"].head.labels) == names
    assert "from timm" in caplog.text


def test_other_classes_start_fresh_with_a_warning_and_the_backbone_is_kept(timm_weights):
    with pytest.warns(UserWarning, match="'cls.*' starts with fresh weights") as caught:
        model = create_model("test_resnet_cls.r160_in1k", pretrained=True, num_classes=4)
    assert caught[0].filename == __file__
    assert same_weights(model["backbone"].model, timm_weights)


def test_timm_s_weights_are_adapted_to_other_channels(timm_weights):
    model = create_model("test_resnet_cls", pretrained=True, in_chans=1)
    theirs = timm.create_model("test_resnet", pretrained=True, in_chans=1)
    assert same_weights(model["backbone"].model, theirs)
    assert logits(model, torch.rand(1, 1, 64, 64)).shape == (1, 1000)


@pytest.mark.slow
def test_a_saved_model_is_the_same_in_another_process(saved):
    model = create_model(f"local-dir:{saved}")
    image = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    code = f"""
import json, torch, brickyard
torch.set_num_threads(1)
image = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
model = brickyard.create_model("local-dir:{saved}").eval()
with torch.no_grad():
    print(json.dumps(model({{"image": image}}, tags={{"MODEL"}})["cls/logits"].double().tolist()))
    print(json.dumps(list(model["cls/head"].head.labels)))
"""
    values, labels = map(json.loads, run_python(code, "-W", "error").splitlines())
    assert torch.equal(torch.tensor(values), logits(model, image).detach())
    assert labels == ["a", "b", "c"]


def test_a_saved_model_takes_other_classes_with_a_warning(saved):
    stored = create_model(f"local-dir:{saved}")
    with pytest.warns(UserWarning, match="'cls/head' starts with fresh weights"):
        model = create_model(f"local-dir:{saved}", num_classes=5)
    assert model["cls/head"].model.out_features == 5
    assert same_weights(model["backbone"].model, stored["backbone"].model)


def test_a_saved_model_takes_other_names_of_its_classes(saved):
    with pytest.warns(UserWarning, match="'cls/head' starts with fresh weights"):
        model = create_model(f"local-dir:{saved}", labels=["x", "y", "z"])
    assert list(model["cls/head"].head.labels) == ["x", "y", "z"]
    model = create_model(f"local-dir:{saved}", labels=["x", "y", "z"], rename=True)
    assert list(model["cls/head"].head.labels) == ["x", "y", "z"]
    assert same_weights(model["cls/head"].model, create_model(f"local-dir:{saved}")["cls/head"].model)


@pytest.mark.parametrize("name", ["test_resnet", "fastvit_t8"])  # the second has two first convolutions
def test_a_saved_model_takes_other_channels_as_timm_does(name, tmp_path, monkeypatch):
    create_model(f"{name}_cls", num_classes=2).save_pretrained(tmp_path)
    state = create_model(f"local-dir:{tmp_path}")["backbone"].model.state_dict()
    monkeypatch.setattr(TIMM_DOWNLOAD, lambda *args, **kwargs: dict(state))
    theirs = timm.create_model(name, pretrained=True, in_chans=1, num_classes=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = create_model(f"local-dir:{tmp_path}", in_chans=1)
    assert [str(warning.message) for warning in caught] == []
    assert same_weights(model["backbone"].model, theirs)


def test_a_model_of_one_channel_keeps_its_backbone_when_its_classes_change(tmp_path):
    model = create_model("test_resnet_cls", num_classes=3, in_chans=1)
    model.freeze("backbone")
    model.save_pretrained(tmp_path / "grey")
    with pytest.warns(UserWarning, match="cls/head"):
        again = create_model(f"local-dir:{tmp_path / 'grey'}", num_classes=5)
    before, after = model["backbone"].model.state_dict(), again["backbone"].model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not again["backbone"].trainable
    with pytest.raises(BrickInputError, match="only weights for 3 channels"):
        create_model(f"local-dir:{tmp_path / 'grey'}", in_chans=3)
