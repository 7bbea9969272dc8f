import copy
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import nn

from brickyard import Brick, BrickError, BrickGraphError, BrickInterface, BrickModule, MissingInputError
from tests.toys import identity, plus


def returning(value, output_names):
    """A brick whose callable returns `value`."""
    return BrickModule(lambda: value, [], output_names)


def test_a_brick_maps_named_values_to_named_values():
    brick = BrickModule(lambda a, b: (a + b, a - b), input_names=["in0", "in1"], output_names=["sum", "difference"])
    assert brick({"in0": 3, "in1": 1, "other": 0}) == {"sum": 4, "difference": 2}


def test_the_given_values_are_not_changed():
    values = {"in": 3}
    BrickModule(lambda x: 2 * x, ["in"], ["out"])(values)
    assert values == {"in": 3}


@pytest.mark.parametrize("names", [{"left": "in0", "right": "in1"}, {"right": "in1", "left": "in0"}])
def test_a_dictionary_of_input_names_goes_in_by_keyword(names):
    brick = BrickModule(lambda left, right: left - right, names, ["out"])
    assert brick({"in0": 3, "in1": 1}) == {"out": 2}
    assert brick.input_names == names


def test_an_argument_that_the_callable_does_not_take_is_pythons_own_error():
    brick = BrickModule(lambda value: value, {"not_a_name": "in"}, ["out"])
    with pytest.raises(TypeError, match="not_a_name"):
        brick({"in": 3})


def test_all_gives_every_value_as_one_dictionary():
    def summed(values, one):
        return sum(values.values()), one

    assert BrickModule(summed, ["__all__", "b"], ["sum", "one"])({"a": 3, "b": 1}) == {"sum": 4, "one": 1}
    by_keyword = BrickModule(summed, {"one": "b", "values": "__all__"}, ["sum", "one"])
    assert by_keyword({"a": 3, "b": 1}) == {"sum": 4, "one": 1}


def test_a_brick_picks_from_a_list_or_tuple_and_gets_none_for_what_may_be_absent():
    brick = identity(["features[-1]", "features[1:3]", "mask?"], ["last", "middle", "mask"])
    assert brick({"features": (1, 2, 3, 4)}) == {"last": 4, "middle": (2, 3), "mask": None}
    assert brick({"features": [1, 2, 3], "mask": 5}) == {"last": 3, "middle": [2, 3], "mask": 5}


@pytest.mark.parametrize("reads", [["image"], ["image", "x"], {"value": "image"}, ["image[0]"]])
def test_a_missing_input_names_the_value(reads):
    with pytest.raises(MissingInputError, match=r"reads 'image'.*Did you mean 'images'"):
        identity(reads, ["out"])({"images": 1, "x": 2})


def test_outputs_are_named_by_position():
    assert returning((1, 2), ["a", "b"])({}) == {"a": 1, "b": 2}
    assert returning([1, 2], ["a", "b"])({}) == {"a": 1, "b": 2}
    assert returning((1,), ["a"])({}) == {"a": 1}


def test_with_one_name_a_list_is_one_value():
    assert returning([1, 2], ["features"])({}) == {"features": [1, 2]}
    assert returning([1], ["features"])({}) == {"features": [1]}
    assert returning([], ["features"])({}) == {"features": []}


def test_with_one_name_a_dictionary_without_that_key_is_one_value():
    assert returning({"x": 1}, ["packet"])({}) == {"packet": {"x": 1}}
    assert returning({"x": 1}, ["./x"])({}) == {"./x": 1}


def test_dictionary_values_are_named_by_key_and_further_keys_are_left():
    values = OrderedDict(out=1, aux=2, more=3)
    assert returning(values, ["seg/aux", "out"])({}) == {"seg/aux": 2, "out": 1}


@pytest.mark.parametrize(
    ("value", "names", "found"),
    [
        ((1, 2), ["a"], "2 values"),
        ((), ["a"], "0 values"),
        ((1, 2, 3), ["a", "b"], "3 values"),
        ([1], ["a", "b"], "1 values"),
        (5, ["a", "b"], "one int"),
        (5, [], "one int"),
        (None, ["a"], "None"),
        ({"a": 1}, ["a", "b"], r"the keys \['a'\]"),
        ((1,), [], "1 values"),
    ],
)
def test_a_wrong_number_of_outputs_names_the_brick_and_both_numbers(value, names, found):
    brick = returning(value, names).at_path("seg/head")
    with pytest.raises(BrickGraphError, match=rf"Brick 'seg/head' .*{found}.*expected {len(names)}"):
        brick({})


def test_a_brick_may_read_and_write_nothing():
    assert returning(None, [])({}) == {}


def test_a_timm_feature_list_is_one_value_or_one_a_name():
    backbone = timm.create_model("test_resnet", features_only=True).eval()
    image = torch.rand(1, 3, 64, 64)
    expected = backbone(image)
    whole = BrickModule(backbone, ["image"], ["features"])({"image": image})["features"]
    assert isinstance(whole, list)
    named = BrickModule(backbone, ["image"], [f"f{i}" for i in range(len(expected))])({"image": image})
    for level, value in enumerate(expected):
        torch.testing.assert_close(whole[level], value)
        torch.testing.assert_close(named[f"f{level}"], value)


def test_a_torchvision_segmentation_model_names_its_dictionary_by_key():
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    image = torch.rand(1, 3, 32, 32)
    expected = model.eval()(image)["out"]
    named = BrickModule(model, ["image"], ["seg/out"])({"image": image})
    assert list(named) == ["seg/out"]
    torch.testing.assert_close(named["seg/out"], expected)


def test_tags_are_one_or_several_and_group_is_their_older_spelling():
    assert identity(["x"], ["y"]).tags == {"MODEL"}
    assert identity(["x"], ["y"], tags="MINE").tags == {"MINE"}
    assert identity(["x"], ["y"], tags=["A", "B", "A"]).tags == {"A", "B"}
    assert identity(["x"], ["y"], group="MINE").tags == {"MINE"}
    assert identity(["x"], ["y"], group={"A", "B"}).tags == {"A", "B"}


def test_a_brick_prints_its_names_and_sorted_tags_in_the_spelling_it_was_given():
    brick = BrickModule(nn.Identity(), ["x"], ["y", "z"], tags={"b", "a", "c"})
    assert repr(brick) == "BrickModule(Identity, input_names=['x'], output_names=['y', 'z'], tags={'a', 'b', 'c'})"
    older = BrickModule(torch.neg, {"input": "x"}, ["y"], group="MODEL")
    assert repr(older) == "BrickModule(neg, input_names={'input': 'x'}, output_names=['y'], groups={'MODEL'})"


def test_a_placed_brick_has_names_of_its_own_and_shares_the_module():
    brick = BrickModule(nn.Linear(2, 2), ["../x"], ["./y"])
    first, second = brick.at_path("a/head"), brick.at_path("b/head")
    assert (first.input_names, first.output_names) == (["x"], ["a/y"])
    assert (second.input_names, second.output_names) == (["x"], ["b/y"])
    assert (brick.path, brick.input_names, brick.output_names) == ("", ["../x"], ["./y"])
    assert first.module is second.module is brick.module


def test_a_placed_brick_is_resolved_anew_from_the_names_as_they_were_declared():
    assert identity(["./x"], ["../y"]).at_path("a/b/head").at_path("c/head").output_names == ["y"]


def test_hooks_of_a_placed_brick_are_its_own():
    brick = plus(1.0, ["x"], ["y"])
    first, second = brick.at_path("first"), brick.at_path("second")
    fired = []
    first.register_forward_hook(lambda *_: fired.append("first"))
    for each in (brick, first, second):
        each({"x": torch.zeros(1)})
    assert fired == ["first"]


def test_names_can_be_set_and_are_parsed_anew():
    brick = plus(1.0, ["x"], ["y"])
    brick.input_names, brick.output_names = ["features[0]"], ["z"]
    assert brick({"features": [torch.zeros(1)]}) == {"z": torch.ones(1)}


def test_a_name_that_cannot_be_parsed_is_refused_when_the_brick_is_made():
    with pytest.raises(BrickError, match="cannot read"):
        identity(["features[x]"], ["y"])


def test_an_output_name_that_no_brick_could_read_is_refused():
    with pytest.raises(BrickError):
        identity(["x"], ["features[0]"])
    with pytest.raises(BrickError):
        identity(["x"], ["mask?"])
    with pytest.raises(BrickError):
        identity(["x"], ["__all__"])


def test_a_deep_copy_shares_nothing():
    brick = BrickModule(nn.Linear(2, 2), ["x"], ["y"])
    twin = copy.deepcopy(brick)
    with torch.no_grad():
        twin.model.weight.zero_()
    assert brick.model.weight.abs().sum() > 0


def test_the_base_is_abstract_and_answers_to_its_older_name():
    assert BrickInterface is Brick
    with pytest.raises(TypeError, match="abstract"):
        Brick(["x"], ["y"], "MODEL")
