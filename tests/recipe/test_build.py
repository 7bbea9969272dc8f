from dataclasses import replace

import pytest
import timm
import torch

from brickyard import (
    BrickCollection,
    BrickInputError,
    HeadRecipe,
    HeadSpec,
    Recipe,
    UnknownNameError,
    create_model,
    create_part,
)
from brickyard.core.brick import Brick
from brickyard.parts.backbones import timm_backbone, timm_spec
from brickyard.parts.registry import part_of
from brickyard.recipe.build import build, head_bricks
from brickyard.recipe.inspection import images_of, recipe_of

RECIPE = Recipe("test_resnet", (HeadRecipe("cls", "cls", num_classes=4),))


def test_every_brick_wraps_a_part_that_can_be_made_again():
    for path, brick in build(RECIPE).items():
        part = part_of(brick.wrapped)
        assert part is not None, path
        assert type(create_part(part.type, **part.args)) is type(brick.wrapped)


def test_the_graph_reads_an_image_and_its_labels():
    model = BrickCollection.of_new(build(RECIPE))
    assert model.required_inputs() == ["image", "targets/cls"]
    assert model.required_inputs(tags={"MODEL"}) == ["image"]
    written = {name for brick in model.bricks().values() for name in brick.writes}
    assert {"normalized", "features", "embedding", "cls/logits", "cls/probabilities", "cls/class_prediction"} <= written


def test_features_fit_what_the_backbone_says_it_provides():
    model = BrickCollection.of_new(build(replace(RECIPE, backbone="test_vit"))).eval()
    provides = model["backbone"].provides.features
    features = model({"image": torch.rand(1, 3, 160, 160)}, outputs=["features"])["features"]
    assert isinstance(features, tuple)
    assert [value.shape[1] for value in features] == list(provides.channels)
    assert [160 // value.shape[2] for value in features] == list(provides.strides)


def test_the_weights_tag_chooses_timm_s_configuration():
    tagged = build(replace(RECIPE, backbone="vit_tiny_patch16_224", weights="augreg_in21k"))
    assert tagged["backbone"].provides.num_classes == 21843
    assert tagged["backbone"].model.pretrained_cfg["tag"] == "augreg_in21k"
    own = build(replace(RECIPE, weights="my_run"))
    assert own["backbone"].model.pretrained_cfg["tag"] == timm.get_pretrained_cfg("test_resnet").tag


def test_preprocessing_is_the_backbone_s():
    config = timm.get_pretrained_cfg("resnet18")
    preprocessor = build(replace(RECIPE, backbone="resnet18"))["preprocessor"].model
    assert preprocessor.mean.flatten().tolist() == pytest.approx(config.mean)
    assert preprocessor.std.flatten().tolist() == pytest.approx(config.std)


def test_a_head_can_stand_under_another_name():
    spec = timm_spec(timm_backbone("test_resnet"))
    bricks = head_bricks(spec, HeadRecipe("animal", "cls", num_classes=3))
    assert all(isinstance(brick, Brick) for brick in bricks.values())
    assert bricks["loss"].input_names[:2] == ["./logits", "targets/animal"]


def test_two_heads_of_one_task_are_told_apart():
    heads = (HeadRecipe("animal", "cls", num_classes=3), HeadRecipe("breed", "cls", num_classes=5))
    outputs = BrickCollection.of_new(build(replace(RECIPE, heads=heads)))(
        {"image": torch.rand(2, 3, 64, 64)}, tags={"MODEL"}
    )
    assert (outputs["animal/logits"].shape, outputs["breed/logits"].shape) == ((2, 3), (2, 5))


@pytest.mark.parametrize(
    ("head", "error", "match"),
    [
        (HeadRecipe("x", "no_such_task"), UnknownNameError, "task 'no_such_task'"),
        (HeadRecipe("x", "cls", "mlp"), UnknownNameError, r"task 'cls'.*'linear'"),
        (HeadRecipe("x", "cls", None, 3, ("a", "b")), BrickInputError, "labels of 'x': expected 3 names, found 2"),
        (HeadRecipe("x", "cls", None, 0), BrickInputError, "x"),
        (HeadRecipe("x", "cls", None, -1), BrickInputError, "x"),
    ],
)
def test_a_head_that_cannot_be_made_is_refused(head, error, match):
    with pytest.raises(error, match=match):
        build(replace(RECIPE, heads=(head,)))


@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        replace(RECIPE, in_chans=4, options={"drop_path_rate": 0.1}),
        replace(RECIPE, weights="r160_in1k", heads=(HeadRecipe("cls", "cls", labels=("a", "b")),)),
        replace(RECIPE, heads=(HeadRecipe("animal", "cls", num_classes=3), HeadRecipe("breed", "cls", num_classes=5))),
    ],
)
def test_the_recipe_can_be_read_off_a_model(recipe):
    found = recipe_of(build(recipe))
    assert (found.backbone, found.in_chans, dict(found.options)) == (recipe.backbone, recipe.in_chans, recipe.options)
    assert found.weights == recipe.weights
    for head, original in zip(found.heads, recipe.heads, strict=True):
        assert (head.name, head.task, head.variant) == (original.name, original.task, original.variant)
        assert head.num_classes == (original.num_classes or len(original.labels))
    assert repr(build(found)) == repr(build(recipe))


def test_a_head_spec_is_frozen():
    with pytest.raises(AttributeError):
        HeadSpec("cls", "linear", 3).num_classes = 4


def test_the_images_are_of_the_largest_size_that_a_head_was_trained_on():
    model = create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 3})
    bricks = model.bricks()
    size = model["backbone"].provides.input.size
    assert images_of(bricks).size == size
    model["seg/head"].head = replace(model["seg/head"].head, image_size=(32, 48))
    assert images_of(bricks).size == size  # what cls was trained on
    model["cls/head"].head = replace(model["cls/head"].head, image_size=(96, 64))
    assert images_of(bricks).size == (96, 64)
    assert images_of({"head": model["cls/head"]}) is None


def test_the_images_are_resized_as_those_that_a_head_was_trained_on():
    model = create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 3})
    backbone = model["backbone"].provides.input
    assert (backbone.crop_mode, backbone.crop_pct) == ("center", 0.95)
    model["seg/head"].head = replace(model["seg/head"].head, image_size=(320, 320), resize_mode="letterbox")
    assert images_of(model.bricks()) == replace(backbone, size=(320, 320), crop_mode="letterbox", crop_pct=1.0)
    model["cls/head"].head = replace(model["cls/head"].head, image_size=(400, 400), resize_mode="squash")
    assert images_of(model.bricks()) == replace(backbone, size=(400, 400), crop_mode="squash", crop_pct=1.0)


def test_an_option_that_the_backbone_does_not_take_is_an_error_that_names_both():
    with pytest.raises(BrickInputError, match=r"backbone 'test_resnet': expected options.*'drop_rat': 0\.1"):
        create_model("test_resnet_cls", drop_rat=0.1)
