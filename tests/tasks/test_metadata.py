import pytest

from brickyard import BrickInputError
from brickyard.tasks.metadata import Label, Metadata, labels_of


class Category(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("typ", "types"),
    [
        (float, ["float"]),
        (float | int, ["float", "int"]),
        (Category, ["str"]),
        (Category | None.__class__, None),
        (str | bool, ["bool", "str"]),
    ],
)
def test_a_type_is_known_by_its_name(typ, types):
    if types is None:
        with pytest.raises(BrickInputError, match="NoneType"):
            Metadata("kind", typ)
    else:
        assert Metadata("kind", typ).types == types


@pytest.mark.parametrize("typ", [dict, list, object, "float", None])
def test_a_type_that_is_not_supported_is_refused(typ):
    with pytest.raises(BrickInputError, match="Metadata 'distance': expected bool, int, float, str"):
        Metadata("distance", typ)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "größe", "1st"])
def test_a_name_that_is_not_an_identifier_is_refused(name):
    with pytest.raises(BrickInputError, match="a name of letters"):
        Metadata(name, float)


def test_two_of_one_name_and_type_are_one():
    assert len({Metadata("distance", float | int), Metadata("distance", float | int)}) == 1


def test_the_only_plain_label_has_the_head_s_name():
    assert labels_of({"seg"}, "parts") == {"seg": Label("targets/parts")}
    assert labels_of({"seg", Metadata("age", int)}, "parts") == {
        "seg": Label("targets/parts"),
        "age": Label("targets/parts/age", ("int",)),
    }


def test_each_of_several_labels_has_its_name():
    labels = labels_of(["keypoints", "boundingbox", Metadata("b", str), Metadata("a", float | int)], "pose")
    assert labels == {
        "boundingbox": Label("targets/pose/boundingbox"),
        "keypoints": Label("targets/pose/keypoints"),
        "a": Label("targets/pose/a", ("float", "int")),
        "b": Label("targets/pose/b", ("str",)),
    }
    assert labels_of((), "pose") == {}
