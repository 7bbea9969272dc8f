from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from brickyard import BrickGraphError, BrickMismatchError, BrickTrainable, HeadRecipe, HeadSpec, Task, create_part
from brickyard.core.specs import BackboneSpec, FeatureSpec
from brickyard.parts.backbones import timm_backbone, timm_spec
from brickyard.recipe.build import head_bricks
from brickyard.tasks import registry
from brickyard.tasks.head_arguments import head_arguments

HEAD = HeadSpec("parts", "x", 2, ("a", "b"))


@pytest.fixture(scope="module")
def backbone() -> BackboneSpec:
    spec = timm_spec(timm_backbone("test_resnet"))
    return replace(spec, features=FeatureSpec((8, 16, 32), (4, 8, 16)), input=replace(spec.input, size=(100, 160)))


class Everything:
    def __init__(
        self, in_channels, in_strides, in_height, in_width, num_classes, labels, image_size, width=64, **options
    ): ...


def test_of_one_map_each_is_one_number(backbone):
    arguments = head_arguments(Everything, backbone, HEAD)
    assert arguments == {
        "in_channels": 32,
        "in_strides": 16,
        "in_height": 7,
        "in_width": 10,
        "num_classes": 2,
        "labels": ["a", "b"],
        "image_size": [100, 160],
    }
    assert head_arguments(Everything, backbone, HEAD, "features[0]")["in_channels"] == 8


@pytest.mark.parametrize(
    ("reads", "channels", "heights"),
    [("features", [8, 16, 32], [25, 13, 7]), ("features[1:3]", [16, 32], [13, 7]), ("features[-1:]", [32], [7])],
)
def test_of_several_each_is_a_list(backbone, reads, channels, heights):
    arguments = head_arguments(Everything, backbone, HEAD, reads)
    assert (arguments["in_channels"], arguments["in_height"]) == (channels, heights)


def test_heights_and_widths_are_those_that_a_backbone_makes():
    model = timm_backbone("test_resnet").eval()
    spec = timm_spec(model)
    arguments = head_arguments(Everything, spec, HEAD, "features")
    maps = model.forward_intermediates(torch.rand(1, 3, *spec.input.size), intermediates_only=True)
    assert [tuple(each.shape[1:]) for each in maps] == list(
        zip(arguments["in_channels"], arguments["in_height"], arguments["in_width"], strict=True)
    )


def test_of_the_pooled_vector_there_is_its_length(backbone):
    assert head_arguments(lambda in_channels: 0, backbone, HEAD, "embedding") == {"in_channels": backbone.embedding}
    with pytest.raises(BrickGraphError, match=r"Head 'parts' \(<lambda>\).*'in_height'. Available: in_channels, num"):
        head_arguments(lambda in_height: 0, backbone, HEAD, "embedding")


def test_own_arguments_go_first_and_defaults_stay(backbone):
    def head(in_channels, num_classes=7, width=64, depth=1): ...

    assert head_arguments(head, backbone, HEAD, width=3, in_channels=5) == {
        "in_channels": 5,
        "num_classes": 2,
        "width": 3,
    }


def test_an_argument_that_nothing_provides_is_named(backbone):
    def head(in_channels, sigma): ...

    with pytest.raises(BrickGraphError, match=r"Head 'parts' \(head\).*'sigma'. Available: in_channels, in_strides"):
        head_arguments(head, backbone, HEAD)


def test_one_number_is_not_several_and_several_are_not_one(backbone):
    def of_one(in_channels: int): ...

    def of_several(in_channels: Sequence[int]): ...

    def of_list(in_height: list[int]): ...

    assert head_arguments(of_one, backbone, HEAD) == {"in_channels": 32}
    assert head_arguments(of_several, backbone, HEAD, "features") == {"in_channels": [8, 16, 32]}
    with pytest.raises(BrickMismatchError, match=r"'parts'.*\n.*'in_channels' is annotated.*provides \[8, 16, 32\]"):
        head_arguments(of_one, backbone, HEAD, "features")
    for function in (of_several, of_list):
        with pytest.raises(BrickMismatchError, match=r"but 'features\[1\]' provides \d+: read several, as 'features'"):
            head_arguments(function, backbone, HEAD, "features[1]")


@pytest.mark.parametrize("reads", ["features[3]", "features[-4]", "features[3:]", "features[2:2]"])
def test_maps_that_are_not_there_are_refused(backbone, reads):
    with pytest.raises(
        BrickMismatchError, match=r"(?s)'parts'.*cannot read features.*3 feature maps, of \[8, 16, 32\]"
    ):
        head_arguments(Everything, backbone, HEAD, reads)


def test_anything_else_has_no_channels(backbone):
    with pytest.raises(BrickGraphError, match="cannot read 'image'"):
        head_arguments(Everything, backbone, HEAD, "image")


class OfTheFifth(Task):
    name = "fifth"
    variants = ("plain",)
    required_labels = ()

    def bricks(self, backbone, head):
        part = create_part("linear", in_features=1, out_features=1)
        return {"head": BrickTrainable(part, ["features[4]"], ["./values"])}


def test_a_head_that_reads_a_map_that_is_not_there_is_refused_when_it_is_built(backbone, monkeypatch):
    monkeypatch.setitem(registry._TASKS, "fifth", OfTheFifth())
    with pytest.raises(BrickMismatchError, match=r"Brick 'x/head' cannot read features\[4\]:\n.*3 feature maps"):
        head_bricks(backbone, HeadRecipe("x", "fifth"))
