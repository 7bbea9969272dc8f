"""Bricks and heads that are exchanged, from every place that can hold one."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from brickyard import (
    BrickCollection,
    BrickError,
    BrickMismatchError,
    BrickNotFoundError,
    BrickNotTrainable,
    Stage,
    create_model,
    create_part,
    fits,
    inspect_brick,
    load_brick,
)
from brickyard.storage import weights

IMAGE = {"image": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))}


def make(labels=("a", "b", "c"), name="test_resnet_cls"):
    return create_model(name, labels=list(labels))


def logits(model):
    with torch.no_grad():
        return model.eval()(IMAGE, outputs="cls/logits")["cls/logits"]


@pytest.fixture
def model(tmp_path):
    """A saved model that was loaded again."""
    make().save_pretrained(tmp_path / "model")
    return BrickCollection.from_pretrained(tmp_path / "model")


@pytest.fixture
def other(model, tmp_path):
    """A folder with another head on the same backbone, of other classes."""
    model.save_pretrained(tmp_path / "copy")
    other = BrickCollection.from_pretrained(tmp_path / "copy")
    other.update({"cls": make(["x", "y"])["cls"].to_dict()})
    other.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize("name", ["cls", "cls/head"])
def test_a_head_of_the_same_classes_keeps_the_loss_and_metrics(name, model, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    changed = BrickCollection.from_pretrained(tmp_path / "copy")
    nn.init.normal_(changed["cls/head"].model.weight)
    changed.save_pretrained(tmp_path / "copy")
    loss, metrics = model["cls/loss"], model["cls/metrics"]
    model.swap(name, tmp_path / "copy")
    assert torch.equal(logits(model), logits(changed))
    assert (model["cls/loss"] is loss, model["cls/metrics"] is metrics) == (True, True)


def test_a_head_of_other_classes_brings_its_loss_metrics_and_picture(model, other):
    assert fits(inspect_brick(f"{other}/cls"), model) == []
    model.swap("cls", other)
    assert torch.equal(logits(model), logits(BrickCollection.from_pretrained(other)))
    assert list(model["cls/head"].head.labels) == ["x", "y"]
    assert model["cls/visualization"].model.labels == ("x", "y")
    values = model({**IMAGE, "targets/cls": torch.tensor([0, 1])})
    assert values["cls/loss"].isfinite()
    assert all(name.startswith("cls/") for name in model.summarize(reset=True))


def test_a_folder_s_place_and_a_folder_of_the_head_alone(model, other, tmp_path):
    model.swap("cls", f"local-dir:{other}/cls")
    assert list(model["cls/head"].head.labels) == ["x", "y"]
    model.swap("cls/head", str(other / "cls" / "head"))


def test_a_head_that_the_model_has_not_is_added(model, other):
    model.swap("more", f"{other}/cls")
    values = model.eval()(IMAGE, tags=Stage.INFERENCE.tags)
    assert values["more/logits"].shape == (2, 2)
    assert values["cls/logits"].shape == (2, 3)


def test_a_module_takes_the_names_of_the_brick_that_it_replaces(model):
    part = create_part("linear", in_features=96, out_features=3)
    model.swap("cls", part)
    assert model["cls/head"].model is part
    assert list(model["cls/head"].head.labels) == ["a", "b", "c"]


def test_a_brick_goes_where_the_head_is_with_its_classes(model, other):
    brick = load_brick(f"{other}/cls")
    model.swap("cls", brick)
    assert torch.equal(model["cls/head"].model.weight, brick.model.weight)
    assert model["cls/visualization"].model.labels == ("x", "y")
    kept = model["cls/visualization"]
    model.swap("cls/head", load_brick(f"{other}/cls"))
    assert model["cls/visualization"] is kept


def test_a_dictionary_and_a_collection_replace_a_place(model):
    new = make(["x", "y"])
    model.swap("cls", new["cls"].to_dict())
    assert torch.equal(model["cls/head"].model.weight, new["cls/head"].model.weight)
    model.swap("cls", make(["p", "q", "r", "s"])["cls"])
    assert logits(model).shape == (2, 4)


def test_a_zoo_model_s_head_needs_its_own_backbone(tmp_path, monkeypatch):
    make().save_pretrained(tmp_path / "test_resnet_cls.mine", weights="mine")
    monkeypatch.setenv("BRICKYARD_ZOO", str(tmp_path))
    model = make(["x", "y"])
    with pytest.raises(BrickMismatchError, match="weights of the backbone"):
        model.swap("cls", "test_resnet_cls.mine")
    model.swap("backbone", "zoo://test_resnet_cls.mine/backbone")
    model.swap("cls", "test_resnet_cls.mine")
    assert torch.equal(logits(model), logits(BrickCollection.from_pretrained("test_resnet_cls.mine")))


def test_how_well_a_head_must_fit_can_be_chosen(model, tmp_path):
    stranger = make(["x", "y"])
    stranger.save_pretrained(tmp_path / "stranger")
    info = inspect_brick(f"{tmp_path}/stranger/cls")
    assert [problem.partition(":")[0] for problem in fits(info, model)] == ["weights of the backbone"]
    assert fits(info, model, "input") == fits(info, model, "shape") == []
    with pytest.raises(BrickMismatchError, match="check='input' or check='shape'"):
        model.swap("cls", tmp_path / "stranger")
    model.swap("cls", tmp_path / "stranger", check="shape")
    with pytest.raises(BrickError, match="one of"):
        fits(info, model, "loose")


def test_a_head_for_other_images_fits_by_its_shape_alone(model, tmp_path):
    other = make(["x", "y"])
    provides = other["backbone"].provides
    other["backbone"].provides = replace(provides, input=replace(provides.input, mean=(0.1, 0.2, 0.3)))
    other.save_pretrained(tmp_path / "other")
    info = inspect_brick(f"{tmp_path}/other/cls")
    assert any("mean of the images" in problem for problem in fits(info, model, "input"))
    assert fits(info, model, "shape") == []


def test_a_head_of_another_form_is_refused_by_every_check(model, tmp_path):
    make(name="test_vit_cls").save_pretrained(tmp_path / "vit")
    before = model["cls/head"]
    for check in ("exact", "input", "shape"):
        with pytest.raises(BrickMismatchError, match="length of the embedding: expected 64, found 96"):
            model.swap("cls", tmp_path / "vit", check=check)
    assert model["cls/head"] is before


@pytest.mark.parametrize("stored", [True, False], ids=["trained", "fresh"])
def test_a_backbone_that_the_heads_cannot_read_is_refused(stored, tmp_path):
    model = make()
    if stored:
        model.save_pretrained(tmp_path / "model")
    make(name="test_vit_cls").save_pretrained(tmp_path / "vit")
    before = model["backbone"]
    with pytest.raises(BrickMismatchError, match="cls/head: length of the embedding"):
        model.swap("backbone", tmp_path / "vit", check="shape")
    assert model["backbone"] is before


def test_a_fresh_head_takes_any_backbone_of_its_shape(tmp_path):
    trained = make()
    trained.save_pretrained(tmp_path / "model")
    fresh = make(["x", "y"])
    fresh.swap("backbone", tmp_path / "model")
    assert torch.equal(fresh["backbone"].model.conv1[0].weight, trained["backbone"].model.conv1[0].weight)


def test_a_backbone_brings_its_normalisation(tmp_path):
    other = make()
    provides = other["backbone"].provides
    images = replace(provides.input, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    other["backbone"].provides = replace(provides, input=images)
    other.save_pretrained(tmp_path / "other")
    model = make()
    model.swap("backbone", tmp_path / "other")
    assert model["preprocessor"].model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert isinstance(model["preprocessor"], BrickNotTrainable)


def test_a_swap_that_is_refused_changes_nothing(model, other):
    before = {path: id(brick) for path, brick in model.bricks().items()}
    (other / "cls" / "head.safetensors").write_bytes(b"")
    for name, source in {"cls": other, "none/x/y": f"{other}/none", "deep": nn.Identity()}.items():
        with pytest.raises(BrickError):
            model.swap(name, source)
    with pytest.raises(BrickNotFoundError):
        model.swap("cls", f"{other}/depth")
    assert {path: id(brick) for path, brick in model.bricks().items()} == before


def test_a_compiled_model_follows_a_swap(model, other):
    compiled = torch.compile(model.eval(), backend="eager")
    with torch.no_grad():
        compiled(IMAGE, outputs="cls/logits")
        model.swap("cls", other)
        model.eval()
        assert torch.equal(compiled(IMAGE, outputs="cls/logits")["cls/logits"], logits(model))


def test_bricks_of_a_new_model_come_from_where_they_are_named(model, other, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = create_model(
            "test_resnet_cls",
            num_classes=2,
            bricks={"cls": str(other), "backbone": str(tmp_path / "model")},  # the backbone comes first all the same
        )
    assert torch.equal(logits(made), logits(BrickCollection.from_pretrained(other)))


def test_a_swap_leaves_the_random_state_of_the_caller_alone(model, tmp_path):
    make(["x", "y", "z"]).save_pretrained(tmp_path / "other")
    before = torch.random.get_rng_state()
    model.swap("cls", tmp_path / "other", check="shape")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_second_fit_check_does_not_hash_the_backbone_again(model, tmp_path, monkeypatch):
    make().save_pretrained(tmp_path / "other")
    info = inspect_brick(f"{tmp_path}/other/cls")
    first = fits(info, model)
    monkeypatch.setattr(weights, "canonical_state", lambda *args: pytest.fail("hashed again"))
    assert fits(info, model) == first
