import json

import pytest
import timm

from brickyard import HeadRecipe, Recipe, UnknownNameError
from brickyard.recipe.names import parse_name

BACKBONES = ["net", "net_small", "wide_net"]
TASKS = {"cls": ("linear", "mlp"), "seg": ("fpn", "unet"), "det": ("fcos",)}


def parse(name: str, backbones: list[str] = BACKBONES) -> Recipe:
    return parse_name(name, backbones, TASKS)


def heads_of(name: str) -> list[tuple[str, str | None]]:
    return [(head.task, head.variant) for head in parse(name).heads]


@pytest.fixture(scope="module")
def timm_names() -> list[str]:
    return timm.list_models()


def test_every_timm_name_with_a_task_is_exactly_that_backbone(timm_names):
    known = frozenset(timm_names)
    read = {name: parse_name(f"{name}_cls", known, {"cls": ("linear",)}) for name in timm_names}
    assert {name: recipe.backbone for name, recipe in read.items()} == {name: name for name in timm_names}
    assert {recipe.heads for recipe in read.values()} == {(HeadRecipe("cls", "cls"),)}
    assert {recipe.name for recipe in read.values()} == {f"{name}_cls" for name in timm_names}


def test_every_timm_name_takes_several_tasks(timm_names):
    known = frozenset(timm_names)
    read = [parse_name(f"{name}_seg-unet_cls.a_tag", known, TASKS) for name in timm_names]
    assert [recipe.backbone for recipe in read] == timm_names
    assert {(recipe.weights, len(recipe.heads)) for recipe in read} == {("a_tag", 2)}


def test_a_backbone_whose_own_name_ends_in_a_task_is_told_apart(timm_names):
    assert "mvitv2_base_cls" in timm_names
    assert parse_name("mvitv2_base_cls", timm_names, TASKS).backbone == "mvitv2_base"
    assert parse_name("mvitv2_base_cls_cls", timm_names, TASKS).backbone == "mvitv2_base_cls"


def test_the_longest_backbone_wins():
    assert parse("net_small_cls").backbone == "net_small"
    assert parse("net_cls").backbone == "net"


def test_the_order_of_tasks_does_not_matter():
    orders = ["net_cls_seg-unet_det", "net_det_seg-unet_cls", "net_seg-unet_det_cls"]
    assert all(parse(name) == parse("net_cls_seg-unet_det") for name in orders)
    assert {parse(name).name for name in orders} == {"net_cls_seg-unet_det"}


def test_variants_are_named_and_the_default_one_needs_no_name():
    assert heads_of("net_cls_seg-unet") == [("cls", None), ("seg", "unet")]
    assert parse("net_seg-fpn") == parse("net_seg")
    assert parse("net_seg-fpn").name == "net_seg"


def test_a_second_reading_is_an_error_that_lists_both():
    with pytest.raises(UnknownNameError, match=r"ambiguous") as caught:
        parse("net_seg_cls", ["net", "net_seg"])
    assert "'net_seg' with ['cls']" in str(caught.value)
    assert "'net' with ['cls', 'seg']" in str(caught.value)
    assert parse("net_cls_seg", ["net", "net_seg"]).backbone == "net"  # the way out that the error names


@pytest.mark.parametrize("name", ["net_cls_cls", "net_seg_seg-unet", "net_cls_det_cls", "net_seg-fpn_seg-unet"])
def test_a_task_that_is_named_twice_is_refused(name):
    with pytest.raises(UnknownNameError, match="names a task twice"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("nett_cls", "net_cls"),
        ("net_smal_cls_seg", "net_small_cls_seg"),
        ("wide_net", "wide_net_cls"),
        ("net_clz", "cls"),
        ("net_seg-unett", "seg-unet"),
        ("net_cls_dett", "det"),
    ],
)
def test_an_unknown_name_lists_the_nearest(name, nearest):
    with pytest.raises(UnknownNameError) as caught:
        parse(name)
    assert f"'{nearest}'" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "_", "cls", "_cls", "net_", "net__cls", "net_cls_", "net_cls-", "NET_cls"])
def test_what_is_no_model_name_is_refused(name):
    with pytest.raises(UnknownNameError):
        parse(name)


def test_the_weights_tag_is_what_follows_the_first_dot():
    assert parse("net_cls.in1k").weights == "in1k"
    assert parse("net_cls.v1.2_in1k").weights == "v1.2_in1k"
    assert parse("net_cls").weights is None
    assert parse("net_seg_cls.in1k").name == "net_cls_seg.in1k"
    assert parse("net_seg_cls.in1k").stem == "net_cls_seg"


def test_an_empty_weights_tag_is_refused():
    with pytest.raises(UnknownNameError):
        parse("net_cls.")


def test_a_recipe_goes_to_json_and_back():
    heads = (HeadRecipe("cls", "cls", None, 3, ("a", "b", "c")), HeadRecipe("seg", "seg", "unet", 21))
    recipe = Recipe("net", heads, "in1k", 4, {"drop_path_rate": 0.1})
    values = json.loads(json.dumps(recipe.to_json()))
    without_labels = (HeadRecipe("cls", "cls", None, 3), heads[1])  # those stand in the head's own file
    assert Recipe.from_json(values) == Recipe("net", without_labels, "in1k", 4, {"drop_path_rate": 0.1})


def test_a_recipe_of_a_later_version_leaves_out_what_it_does_not_know():
    values = {"backbone": "net", "heads": [{"name": "cls", "task": "cls", "colour": "red"}], "mood": "good"}
    assert Recipe.from_json(values) == Recipe("net", (HeadRecipe("cls", "cls"),))
