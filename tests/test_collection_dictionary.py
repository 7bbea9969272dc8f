"""A collection as a dictionary: how it is built, and what a change does to it."""

import contextlib

import pytest
import torch
from torch import nn

from brickyard import Brick, BrickCollection, BrickError, BrickGraphError, BrickModule
from tests.toys import identity, plus, tiny_bricks, tiny_inputs, weight_of

ZERO = torch.zeros(1)


def head(amount: float = 1):
    return {"fc": plus(amount, ["../features"], ["./logits"]), "loss": plus(0, ["./logits"], ["./loss"])}


def model() -> BrickCollection:
    return BrickCollection({"backbone": plus(10, ["x"], ["features"]), "head": head()})


def snapshot(collection: BrickCollection):
    """Everything that a refused change must leave as it was."""
    return (
        repr(collection),
        list(collection.bricks().items()),
        list(collection.named_modules()),
        list(collection({"x": ZERO}).items()),
    )


def test_the_given_dictionary_and_its_bricks_stay_as_they_are():
    bricks = tiny_bricks()
    kept = {**bricks, "head": dict(bricks["head"])}
    printed = repr(bricks)
    BrickCollection(bricks)
    assert bricks == kept
    assert type(bricks["head"]) is dict
    assert repr(bricks) == printed
    assert bricks["head"]["loss"].path == ""


def test_one_dictionary_under_two_names_makes_two_heads_with_names_of_their_own():
    shared = {"fc": BrickModule(nn.Linear(2, 2), ["features"], ["./logits"])}
    collection = BrickCollection({"head0": shared, "head1": shared})
    assert collection["head0/fc"].output_names == ["head0/logits"]
    assert collection["head1/fc"].output_names == ["head1/logits"]
    assert collection["head0/fc"].model is collection["head1/fc"].model
    assert list(collection({"features": torch.ones(1, 2)}, return_inputs=False)) == ["head0/logits", "head1/logits"]


@pytest.mark.parametrize("first", [True, False])
def test_a_nested_collection_behaves_as_a_nested_dictionary(first):
    inner = BrickCollection(
        {"fc": identity(["features"], ["./logits"]), "deep": {"loss": identity(["../logits"], ["./loss"])}}
    )
    backbone = {"backbone": identity(["x"], ["features"])}
    collection = BrickCollection({"head": inner, **backbone} if first else {**backbone, "head": inner})
    assert collection["head/fc"].output_names == ["head/logits"]
    assert collection["head/deep/loss"].input_names == ["head/logits"]
    assert set(collection({"x": 5}).items()) == {("x", 5), ("features", 5), ("head/logits", 5), ("head/deep/loss", 5)}
    assert inner["fc"].output_names == ["logits"]


def test_relative_names_are_taken_from_the_place_of_the_brick():
    collection = BrickCollection(
        {
            "backbone": identity(["raw"], ["embedding"]),
            "head0": {"classifier": identity(["../embedding"], ["./predictions"])},
            "head1": {
                "classifier": identity(["embedding"], ["./predictions"]),
                "deep": {"mix": identity({"a": "../predictions", "b": "../../head0/predictions"}, ["./loss"])},
            },
        }
    )
    assert collection["head0/classifier"].input_names == ["embedding"]
    mix = collection["head1"]["deep"]["mix"]
    assert mix.input_names == {"a": "head1/predictions", "b": "head0/predictions"}
    assert mix.output_names == ["head1/deep/loss"]


def test_a_name_above_the_root_is_refused_with_the_brick():
    with pytest.raises(BrickGraphError, match=r"Unable to resolve '../../x' in brick 'head0/classifier'"):
        BrickCollection({"head0": {"classifier": identity(["../../x"], ["./y"])}})


def test_a_cycle_and_two_writers_are_refused_when_the_collection_is_built():
    with pytest.raises(BrickGraphError, match=r"form a cycle.*head/a"):
        BrickCollection({"head": {"a": identity(["./z"], ["./y"]), "b": identity(["./y"], ["./z"])}})
    with pytest.raises(BrickGraphError, match="'a' and 'head/b' both write 'y'"):
        BrickCollection({"a": identity(["x"], ["y"]), "head": {"b": identity(["x"], ["../y"])}})


def test_something_that_is_no_brick_is_refused_with_its_path():
    with pytest.raises(TypeError, match=r"'head/fc': expected a brick, a collection or a dictionary, found Linear"):
        BrickCollection({"head": {"fc": nn.Linear(2, 2)}})


def test_a_dictionary_of_dictionaries_comes_back(collection):
    tree = collection.to_dict()
    assert type(tree["head"]) is dict
    assert list(tree) == ["preprocessor", "backbone", "head"]
    assert tree["head"]["loss"] is collection["head"]["loss"]


def test_bricks_are_reached_by_key_or_by_path(collection):
    assert collection["head"]["loss"] is collection["head/loss"]
    assert isinstance(collection["head"], BrickCollection)
    assert all(key in collection for key in ("backbone", "head", "head/loss"))
    assert not any(key in collection for key in ("loss", "head/lost", "backbone/conv", 3))
    assert (len(collection), list(collection)) == (3, ["preprocessor", "backbone", "head"])


def test_an_absent_key_is_a_key_error_with_the_nearest(collection):
    with pytest.raises(KeyError, match=r"'head/los'.*Did you mean 'head/loss'"):
        collection["head/los"]
    with pytest.raises(KeyError, match="nothing"):
        collection.pop("nothing")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.__setitem__("seg", head(5)),
        lambda c: c.__setitem__("seg", BrickCollection({"fc": plus(5, ["features"], ["./logits"])})),
        lambda c: c.update({"seg": head(5)}),
        lambda c: c.update({"seg/fc": head(5)["fc"]}),
        lambda c: c.__setitem__("seg/fc", head(5)["fc"]),
        lambda c: c.update(BrickCollection({"seg": {"fc": plus(5, ["features"], ["./logits"])}})),
    ],
)
def test_a_brick_set_later_is_resolved_like_one_given_at_the_start(change):
    collection = model()
    collection({"x": ZERO})
    change(collection)
    assert collection["seg/fc"].output_names == ["seg/logits"]
    assert collection({"x": ZERO})["seg/logits"] == 15
    assert isinstance(collection["seg"], BrickCollection)


def test_a_brick_set_through_a_nested_collection_belongs_to_the_whole():
    collection = model()
    collection["head"]["more"] = plus(100, ["./logits"], ["./more"])
    assert collection({"x": ZERO})["head/more"] == 111
    assert collection["head/more"].path == "head/more"
    collection["head"]["deep"] = {"er": plus(1, ["../more"], ["./est"])}
    assert collection({"x": ZERO})["head/deep/est"] == 112


def test_a_replaced_brick_keeps_its_turn_and_a_replaced_head_goes_as_a_whole():
    collection = model()
    collection["backbone"] = plus(20, ["x"], ["features"])
    collection["head"] = {"fc": plus(3, ["../features"], ["./logits"])}
    assert list(collection.bricks()) == ["backbone", "head/fc"]
    assert collection({"x": ZERO}) == {"x": 0, "features": 20, "head/logits": 23}


def test_a_collection_held_before_a_change_sees_it():
    collection = model()
    held = collection["head"]
    collection["head/fc"] = plus(3, ["../features"], ["./logits"])
    assert collection["head"] is held
    assert held["fc"] is collection["head/fc"]
    assert held({"features": ZERO})["head/logits"] == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.__setitem__("again", plus(1, ["x"], ["features"])),
        lambda c: c.__setitem__("head/again", plus(1, ["x"], ["./logits"])),
        lambda c: c["head"].__setitem__("again", plus(1, ["x"], ["./logits"])),
        lambda c: c.__setitem__("backbone", plus(1, ["head/loss"], ["features"])),
        lambda c: c.__setitem__("up", {"x": plus(1, ["../../x"], ["y"])}),
        lambda c: c.__setitem__("bad.name", plus(1, ["x"], ["y"])),
        lambda c: c.__setitem__("Head", head()),
        lambda c: c.__setitem__("other", nn.Identity()),
        lambda c: c.update({"fine": plus(1, ["x"], ["y"]), "bad": plus(1, ["x"], ["features"])}),
        lambda c: c.update({"head": {"fc": plus(1, ["x"], ["features"])}}),
        lambda c: c.pop("nothing"),
        lambda c: c.__delitem__("head/nothing"),
        lambda c: c.__setitem__("backbone/inner", plus(1, ["x"], ["y"])),
        lambda c: c.__setitem__("head/fc/inner", plus(1, ["x"], ["y"])),
    ],
)
def test_a_refused_change_leaves_the_collection_as_it_was(change):
    collection = model()
    before = snapshot(collection)
    with pytest.raises((BrickError, TypeError, KeyError)):
        change(collection)
    assert snapshot(collection) == before


def test_a_brick_inside_a_brick_is_refused_when_the_collection_is_built():
    with pytest.raises(BrickGraphError, match="head"):
        BrickCollection({"head": plus(1, ["x"], ["y"]), "head/loss": plus(1, ["x"], ["z"])})


@pytest.mark.parametrize("name", ["values", "plan", "train", "type", "training", "_modules", "_graph"])
def test_a_brick_named_like_a_part_of_the_class_is_refused_or_works(name):
    collection = model()
    before = snapshot(collection)
    try:
        collection[name] = BrickModule(nn.Linear(1, 1), ["x"], ["named"])
    except BrickGraphError:
        assert snapshot(collection) == before
    else:
        assert f"{name}.model.weight" in collection.state_dict()
        assert "named" in collection.train()({"x": ZERO})


def test_a_popped_brick_is_gone_and_comes_back():
    collection = model()
    brick = collection.pop("head/loss")
    assert isinstance(brick, Brick)
    assert list(collection({"x": ZERO})) == ["x", "features", "head/logits"]
    collection["head/loss"] = brick
    assert list(collection({"x": ZERO})) == ["x", "features", "head/logits", "head/loss"]


def test_a_popped_head_stands_alone_and_serves_under_another_name():
    collection = model()
    popped = collection.pop("head")
    assert list(collection.bricks()) == ["backbone"]
    assert popped({"features": ZERO})["head/loss"] == 1
    collection["other"] = popped
    assert collection({"x": ZERO})["other/loss"] == 11


def test_pop_through_a_nested_collection_and_del():
    collection = model()
    collection["head"].pop("loss")
    assert list(collection.bricks()) == ["backbone", "head/fc"]
    del collection["head/fc"]
    assert list(collection({"x": ZERO})) == ["x", "features"]
    collection.clear()
    assert (len(collection), collection.bricks(), collection({"x": 1})) == (0, {}, {"x": 1})


def test_a_brick_whose_maker_was_popped_asks_the_caller():
    collection = model()
    collection.pop("backbone")
    assert collection.required_inputs() == ["features"]


def test_a_head_that_was_replaced_no_longer_reaches_the_collection():
    collection = model()
    old = collection["head"]
    collection["head"] = plus(1, ["features"], ["logits"])
    before = snapshot(collection)
    with contextlib.suppress(BrickError):
        old["more"] = plus(1, ["x"], ["./more"])
    assert snapshot(collection) == before


def test_a_brick_set_as_an_attribute_is_set_like_an_item_or_refused():
    collection = model()
    try:
        collection.extra = plus(1, ["x"], ["extra"])
    except (BrickError, TypeError, AttributeError):
        assert "extra" not in collection
    else:
        assert "extra" in collection({"x": ZERO})


def test_metrics_of_other_bricks_go_on_counting_after_a_change(collection):
    collection(tiny_inputs())
    collection["extra"] = plus(1, ["raw"], ["extra"])
    assert "head/Accuracy" in collection.summarize(reset=True)


def test_a_new_brick_is_trained_with_the_rest():
    collection = BrickCollection({"a": BrickModule(nn.Linear(1, 1), ["x"], ["y"])})
    collection["deep/b"] = BrickModule(nn.Linear(1, 1), ["y"], ["./z"])
    assert any(parameter is weight_of(collection["deep/b"]) for parameter in collection.parameters())
    collection({"x": torch.ones(1, 1)})["deep/z"].sum().backward()
    assert weight_of(collection["a"]).grad is not None
