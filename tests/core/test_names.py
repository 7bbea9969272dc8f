import pytest

from brickyard import BrickError, BrickGraphError, BrickInputError
from brickyard.core.names import Reference, check_brick_names, join, parse_reference, prefix_of, resolve


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("features", "seg/head", "features"),
        ("targets/seg", "seg/head", "targets/seg"),
        ("./logits", "seg/head", "seg/logits"),
        ("../features", "seg/head", "features"),
        ("./logits", "head", "logits"),
        ("../../head0/logits", "head1/deep/loss", "head0/logits"),
        ("../logits", "head1/deep/loss", "head1/logits"),
        ("./../x", "a/b", "x"),
        ("./sub/x", "a/b", "a/sub/x"),
        ("../features[-1]", "a/b", "features[-1]"),
        ("./mask?", "a/b", "a/mask?"),
        ("__all__", "a/b", "__all__"),
        ("./x", "", "./x"),
    ],
)
def test_a_name_resolves_from_the_place_of_its_brick(name, path, expected):
    assert resolve(name, path) == expected


@pytest.mark.parametrize(
    ("name", "path"),
    [("../x", "head"), ("../../x", "a/b"), (".", "a/b"), ("./", "a/b"), ("..", "a/b/c"), ("./x/..", "a")],
)
def test_a_name_that_leaves_the_collection_or_ends_in_a_place_is_refused_with_the_brick(name, path):
    with pytest.raises(BrickGraphError, match=r"Failed to resolve input name. Unable to resolve") as caught:
        resolve(name, path)
    assert f"'{name}'" in str(caught.value)
    assert f"'{path}'" in str(caught.value)


def test_join_and_place_of_are_inverse():
    assert join("", "head") == "head"
    assert join("a/b", "head") == "a/b/head"
    assert prefix_of("a/b/head") == "a/b"
    assert prefix_of("head") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image", Reference("image")),
        ("features[-1]", Reference("features", -1)),
        ("seg/features[2]", Reference("seg/features", 2)),
        ("features[1:3]", Reference("features", slice(1, 3))),
        ("features[-2:]", Reference("features", slice(-2, None))),
        ("features[:]", Reference("features", slice(None, None))),
        ("features[2,-1]", Reference("features", (2, -1))),
        ("mask?", Reference("mask", optional=True)),
        ("features[0]?", Reference("features", 0, optional=True)),
    ],
)
def test_a_reference_is_parsed(text, expected):
    assert parse_reference(text, "brick") == expected


@pytest.mark.parametrize(
    "text", ["", "features[", "features[a]", "features[1:2:3]", "features[]", "[0]", "?", "a?[0]", "a??"]
)
def test_a_reference_of_another_form_is_refused_with_its_brick(text):
    with pytest.raises(BrickGraphError, match="'seg/head' cannot read"):
        parse_reference(text, "seg/head")


@pytest.mark.parametrize("container", [tuple, list])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f[0]", 10),
        ("f[-1]", 13),
        ("f[1:3]", [11, 12]),
        ("f[-2:]", [12, 13]),
        ("f[:1]", [10]),
        ("f[2,-1,0]", (12, 13, 10)),
    ],
)
def test_reading_picks_from_a_list_or_tuple(container, text, expected):
    value = parse_reference(text, "brick").read({"f": container([10, 11, 12, 13])}, "brick")
    assert value == (container(expected) if isinstance(expected, list) else expected)


@pytest.mark.parametrize(
    ("text", "items"), [("f", (0, 1, 2, 3)), ("f[-1]", (3,)), ("f[1:]", (1, 2, 3)), ("f[2,-1]", (2, 3)), ("f[4:]", ())]
)
def test_the_items_of_a_reference_are_counted_from_the_first(text, items):
    assert parse_reference(text, "head").items(4) == items


@pytest.mark.parametrize("text", ["f[2]", "f[-3]", "f[0,2]"])
def test_an_index_outside_says_how_many_items_there_are(text):
    with pytest.raises(BrickInputError, match=r"seg/head.*'f', found 2 items"):
        parse_reference(text, "seg/head").read({"f": (1, 2)}, "seg/head")


def test_picking_from_something_else_names_its_type():
    with pytest.raises(BrickInputError, match=r"a list or tuple as 'f', found str"):
        parse_reference("f[0]", "head").read({"f": "text"}, "head")


def test_an_optional_value_is_none_where_it_is_absent_and_itself_where_it_is_there():
    reference = parse_reference("mask?", "brick")
    assert reference.read({}, "brick") is None
    assert reference.read({"mask": 0}, "brick") == 0
    assert parse_reference("features[0]?", "brick").read({}, "brick") is None


def test_all_reads_a_copy_of_every_value():
    values = {"a": 1, "b": 2}
    read = parse_reference("__all__", "brick").read(values, "brick")
    assert read == values
    assert read is not values


def test_only_a_name_and_nothing_else_is_plain():
    assert parse_reference("image", "b").is_plain
    assert not any(parse_reference(text, "b").is_plain for text in ("f[0]", "f[:2]", "mask?", "__all__"))


@pytest.mark.parametrize("path", ["head.0", "a b", "seg/", "/seg", "", "köpf", "a/../b", "head-1"])
def test_a_brick_name_that_is_no_safe_file_name_is_refused(path):
    with pytest.raises(BrickGraphError, match="cannot name a brick"):
        check_brick_names([path])


def test_brick_names_alike_but_for_case_are_refused_with_both():
    with pytest.raises(BrickError, match="'seg/Head' and 'seg/head' differ only in case"):
        check_brick_names(["seg/Head", "seg/head"])
