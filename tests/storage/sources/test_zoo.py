"""The zoo that ships with weights, and the names that `list_models` gives."""

import json
import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import brickyard
from brickyard import BrickMismatchError, Tag, UnknownNameError, create_model, list_models
from brickyard.recipe.inspection import name_of
from brickyard.storage.sources.zoo import find_in_zoo, zoo_folders
from tests.private_names import TIMM_DOWNLOAD
from tests.toys import SOURCE

NAME = "tf_efficientnet_lite0_cls.in1k"
ZOO = SOURCE.parent / "zoo" / NAME


@pytest.fixture
def own_zoo(tmp_path, monkeypatch) -> Path:
    """A folder of the user's own with one trained model."""
    create_model("test_resnet_cls", num_classes=3).save_pretrained(tmp_path / "test_resnet_cls.mine", weights="mine")
    monkeypatch.setenv("BRICKYARD_ZOO", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def by_timm() -> nn.Module:
    """The shipped weights in plain timm modules."""
    backbone = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    backbone.load_state_dict(load_file(ZOO / "backbone.safetensors"), strict=True)
    classifier = nn.Linear(1280, 1000)
    classifier.load_state_dict(load_file(ZOO / "cls" / "head.safetensors"), strict=True)
    return nn.Sequential(backbone, classifier).eval()


def photo(name: str) -> Tensor:
    """A sample as timm prepares it, but for the normalisation."""
    config = timm.get_pretrained_cfg("tf_efficientnet_lite0.in1k")
    transform = timm.data.create_transform(
        config.input_size, interpolation=config.interpolation, crop_pct=config.crop_pct, normalize=False
    )
    with Image.open(Path(brickyard.__file__).parent / "samples" / f"{name}.jpg") as picture:
        return torch.as_tensor(transform(picture.convert("RGB")))[None]


def outputs(model: brickyard.BrickCollection, image: Tensor) -> dict[str, Tensor]:
    return model.eval()({"image": image}, tags={Tag.MODEL})


@pytest.mark.parametrize("sample", ["chelsea", "coffee", "rocket"])
def test_the_shipped_model_is_timm_s_with_the_shipped_weights(sample, by_timm):
    image = photo(sample)
    expected = by_timm((image / 255 - 0.5) / 0.5)
    torch.testing.assert_close(outputs(create_model(NAME, pretrained=True), image)["cls/logits"], expected)


@pytest.mark.parametrize(("sample", "label"), [("chelsea", " cat"), ("coffee", "espresso"), ("rocket", "missile")])
def test_the_shipped_model_knows_the_samples(sample, label):
    model = create_model(NAME, pretrained=True)
    labels = list(model["cls/head"].head.labels)
    assert labels == timm.data.ImageNetInfo("imagenet-1k").label_descriptions()
    assert label in labels[outputs(model, photo(sample))["cls/class_prediction"]]


def test_the_tag_can_be_left_out():
    one, other = (create_model(name, pretrained=True) for name in (NAME, NAME.partition(".")[0]))
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(outputs(one, image)["cls/logits"], outputs(other, image)["cls/logits"])


def test_without_pretrained_the_weights_are_fresh():
    shipped = load_file(ZOO / "cls" / "head.safetensors")["weight"]
    assert not torch.equal(create_model(NAME)["cls/head"].model.weight, shipped)


def test_other_classes_get_a_fresh_head_and_keep_the_backbone(by_timm):
    with pytest.warns(UserWarning, match="'cls/head' starts with fresh weights") as caught:
        model = create_model(NAME, pretrained=True, num_classes=10)
    assert [warning.filename for warning in caught] == [__file__]
    image = torch.rand(1, 3, 64, 64)
    found = outputs(model, image)
    assert found["cls/logits"].shape == (1, 10)
    torch.testing.assert_close(found["embedding"], by_timm[0]((image - 0.5) / 0.5))


def test_what_is_known_of_a_brick_stays_with_its_weights():
    licence = json.loads((ZOO / "backbone.json").read_text(encoding="utf-8"))["licence"]
    assert licence == "apache-2.0"
    with pytest.warns(UserWarning, match="fresh"):
        model = create_model(NAME, pretrained=True, num_classes=10)
    assert model["backbone"].metadata["licence"] == licence
    assert "licence" not in model["cls/head"].metadata  # those weights are the user's own


def test_one_channel_is_adapted_as_timm_does(by_timm, monkeypatch):
    state = load_file(ZOO / "backbone.safetensors")
    monkeypatch.setattr(TIMM_DOWNLOAD, lambda *args, **kwargs: dict(state))
    theirs = timm.create_model("tf_efficientnet_lite0.in1k", pretrained=True, in_chans=1, num_classes=0).eval()
    model = create_model(NAME, pretrained=True, in_chans=1)
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(outputs(model, image)["cls/logits"], by_timm[1](theirs((image - 0.5) / 0.5)))


def test_an_own_zoo_is_found_and_told(own_zoo, caplog):
    caplog.set_level("INFO")
    stored = load_file(own_zoo / "test_resnet_cls.mine" / "cls" / "head.safetensors")
    for name in ("test_resnet_cls.mine", "test_resnet_cls"):
        assert torch.equal(create_model(name, pretrained=True)["cls/head"].model.weight, stored["weight"])
    assert str(own_zoo / "test_resnet_cls.mine") in caplog.text


def test_several_own_zoos_are_looked_through_in_order(own_zoo, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(own_zoo / "test_resnet_cls.mine", other / "test_resnet_cls.mine")
    shutil.copytree(own_zoo / "test_resnet_cls.mine", other / "test_resnet_cls.second")
    monkeypatch.setenv("BRICKYARD_ZOO", os.pathsep.join([str(own_zoo), "", str(other), str(other / "nowhere")]))
    assert find_in_zoo("test_resnet_cls", "mine").folder == own_zoo / "test_resnet_cls.mine"
    assert find_in_zoo("test_resnet_cls", "second").folder == other / "test_resnet_cls.second"
    assert find_in_zoo("test_resnet_cls", "third") is None
    shipped = sorted(folder.name for folder in ZOO.parent.iterdir())
    assert list(zoo_folders())[: len(shipped)] == shipped  # the package's own first


def test_an_unknown_tag_names_those_of_the_zoo_too(own_zoo):
    with pytest.raises(UnknownNameError, match="'mine'"):
        create_model("test_resnet_cls.mime", pretrained=True)


def test_a_broken_own_zoo_does_not_hide_the_others(own_zoo):
    (own_zoo / "broken").mkdir()
    (own_zoo / "broken" / "bricks.json").write_text("{")
    assert set(list_models(pretrained=True)) >= {NAME, "test_resnet_cls.mine"}


@pytest.mark.slow
def test_every_backbone_is_listed_with_a_classifier():
    assert list_models("*_cls", tasks=["cls"])[:3] == [f"{name}_cls" for name in timm.list_models()[:3]]
    listed = set(list_models())
    assert all(f"{name}_cls" in listed for name in timm.list_models())


@pytest.mark.slow
def test_the_filter_takes_wildcards_as_timm_does():
    assert list_models("resnet1*_cls") == [f"{name}_cls" for name in timm.list_models("resnet1*")]
    both = {f"{name}_cls" for name in timm.list_models(["test_vit*", "test_res*"])}
    assert set(list_models(["test_vit*_cls", "test_res*_cls"], tasks=["cls"])) >= both
    assert list_models("no_such_*") == []
    assert list_models("resnet18_cls") == ["resnet18_cls"]


def test_pretrained_lists_what_lies_here(own_zoo):
    assert set(list_models(pretrained=True)) >= {NAME, "test_resnet_cls.mine"}
    shipped = ["test_resnet_cls-multilabel_seg-tower_det.digits_v1"]
    assert list_models("test_*", pretrained=True) == [*shipped, "test_resnet_cls.mine"]
    assert list_models("test_*", pretrained=True, tasks=["det"]) == shipped


def test_an_unknown_task_is_refused():
    with pytest.raises(UnknownNameError, match=r"task 'clz'.*'cls'"):
        list_models(tasks=["clz"])


@pytest.mark.slow
def test_one_task_can_be_a_plain_string():
    assert list_models("resnet18_*", tasks="cls") == list_models("resnet18_*", tasks=["cls"])


@pytest.mark.slow
def test_every_listed_name_can_be_read():
    for name in ("resnet18_cls", *list_models("test_vit*"), *list_models(pretrained=True)):
        assert brickyard.model_info(name).tasks


@pytest.mark.parametrize("name", sorted(folder.name for folder in ZOO.parent.iterdir()))
def test_a_zoo_model_is_the_same_architecture_with_and_without_weights(name):
    fresh, trained = create_model(name), create_model(name, pretrained=True)
    assert repr(fresh) == repr(trained)
    assert list(fresh.bricks()) == list(trained.bricks())
    for path, brick in trained.bricks().items():
        assert fresh[path].head == brick.head
        assert fresh[path].provides == brick.provides
        shapes = {key: (value.shape, value.dtype) for key, value in brick.state_dict().items()}
        assert {key: (value.shape, value.dtype) for key, value in fresh[path].state_dict().items()} == shapes
    assert all(parameter.requires_grad for parameter in fresh.parameters())


@pytest.mark.parametrize("name", sorted(folder.name for folder in ZOO.parent.iterdir()))
def test_a_zoo_folder_is_named_as_its_manifest_and_as_its_bricks(name):
    assert json.loads((ZOO.parent / name / "bricks.json").read_text(encoding="utf-8"))["collection"] == name
    assert name_of(create_model(name).bricks(), name.partition(".")[2]) == name


def test_a_name_without_a_tag_means_the_default_tag_also_without_weights():
    for name in ("tf_efficientnet_lite0_seg-unet", "test_resnet_cls-multilabel_seg-tower_det"):
        assert repr(create_model(name)) == repr(create_model(f"{name}.digits_v1", pretrained=True))


@pytest.mark.filterwarnings("ignore:'seg' starts with fresh weights")
def test_trained_weights_never_come_with_another_head_than_the_name_says(monkeypatch):
    classifier = {f"classifier.{key}": value for key, value in load_file(ZOO / "cls" / "head.safetensors").items()}
    state = {**load_file(ZOO / "backbone.safetensors"), **classifier}
    monkeypatch.setattr(TIMM_DOWNLOAD, lambda *args, **kwargs: dict(state))
    trained = create_model("tf_efficientnet_lite0_seg", pretrained=True)
    assert repr(trained) == repr(create_model("tf_efficientnet_lite0_seg"))


def test_a_zoo_folder_of_another_name_than_its_model_is_refused(own_zoo):
    (own_zoo / "test_resnet_cls.mine").rename(own_zoo / "test_resnet_seg.mine")
    with pytest.raises(BrickMismatchError, match=r"test_resnet_seg\.mine"):
        create_model("test_resnet_seg.mine", pretrained=True)
