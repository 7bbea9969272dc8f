"""Trained weights follow the names of their classes."""

import warnings

import pytest
import torch

from brickyard import BrickInputError, BrickMismatchError, create_model
from brickyard.core.specs import HeadInfo

NAMES = ["a", "b", "c"]


def outputs_of(model):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()({"image": image}, tags="MODEL")


@pytest.fixture
def stored(tmp_path):
    def save(token):
        torch.manual_seed(0)
        model = create_model(f"test_resnet_{token}", labels=NAMES)
        model.save_pretrained(tmp_path)
        return model, f"local-dir:{tmp_path}"

    return save


@pytest.mark.parametrize("labels", [["c", "b", "a"], ["b", "c", "a"]])
@pytest.mark.parametrize("token", ["cls", "cls-attention", "cls-multilabel"])
def test_the_same_classes_in_another_order_give_the_same_scores_by_name(token, labels, stored):
    model, source = stored(token)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = create_model(source, labels=labels)
    before, after = (outputs_of(each)["cls/logits"][0] for each in (model, other))
    expected = torch.stack([before[NAMES.index(name)] for name in labels])
    assert torch.allclose(after, expected, atol=1e-6)
    assert other["cls/head"].head.labels == tuple(labels)
    assert other["cls/head"].head.trained, "a training without labels for it must not mark it as fresh"


@pytest.mark.parametrize("token", ["det", "det-retinanet", "det-ssdlite"])
def test_detectors_keep_the_class_of_every_anchor(token, stored):
    model, source = stored(token)
    other = create_model(source, labels=["c", "a", "b"])
    before, after = (outputs_of(each)["det/logits"] for each in (model, other))
    background = before.shape[-1] - 3
    order = [*range(background), *(background + NAMES.index(name) for name in ("c", "a", "b"))]
    assert torch.allclose(after, before[..., order], atol=1e-5)


def test_new_names_get_fresh_rows_with_a_warning(stored):
    model, source = stored("cls")
    with pytest.warns(UserWarning, match=r"fresh weights for the classes \['d'\]"):
        other = create_model(source, labels=["c", "d", "a", "b"])
    weight, before = other["cls/head"].model.weight, model["cls/head"].model.weight
    assert torch.equal(weight[[0, 2, 3]], before[[2, 0, 1]])
    with pytest.warns(UserWarning, match="starts with fresh weights"):
        other = create_model(source, labels=["x", "y", "z"])
    assert not (other["cls/head"].model.weight == before).all(dim=1).any()


def test_classes_are_renamed_on_demand(stored):
    model, source = stored("cls")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = create_model(source, labels=["x", "y", "z"], rename=True)
    assert torch.equal(other["cls/head"].model.weight, model["cls/head"].model.weight)
    assert other["cls/head"].head.labels == ("x", "y", "z")


def test_classes_without_names_take_names(tmp_path):
    model = create_model("test_resnet_cls", num_classes=3)
    model.save_pretrained(tmp_path)
    other = create_model(f"local-dir:{tmp_path}", labels=NAMES)
    assert torch.equal(other["cls/head"].model.weight, model["cls/head"].model.weight)


def test_the_weights_of_a_head_alone_are_not_swapped_for_those_of_other_classes(stored):
    _, source = stored("cls")
    model = create_model("test_resnet_cls", labels=["c", "b", "a"])
    path = source.removeprefix("local-dir:")
    with pytest.raises(BrickMismatchError, match="labels: expected"):
        model.swap("cls/head", f"{path}/cls/head", check="shape")
    model.swap("cls", f"{path}/cls", check="shape")
    assert model["cls/head"].head.labels == tuple(NAMES)


@pytest.mark.parametrize("labels", [[1, 2], ["a", "a"], ["a", None], [], "ab", [["a"], "b"]])
def test_class_names_are_checked_where_they_are_passed(labels):
    with pytest.raises(BrickInputError, match="labels"):
        create_model("test_resnet_cls", labels=labels)


def test_equal_names_of_imagenet_are_read():
    assert HeadInfo("cls", "linear", ("crane", "crane")).labels == ("crane", "crane")
