import pickle

import pytest

from brickyard import errors
from brickyard.errors import (
    BrickError,
    BrickGraphError,
    BrickInputError,
    BrickIntegrityError,
    BrickMismatchError,
    BrickNotFoundError,
    HubConnectionError,
    MissingExtraError,
    MissingInputError,
    PushConflictError,
    UnknownNameError,
    UnsafeBrickError,
    nearest,
)

ALL_ERRORS = [
    (UnknownNameError("model", "resnet19", ["resnet18", "vit"], "Look again."), ValueError),
    (BrickGraphError("a waits for b"), ValueError),
    (MissingInputError([("image", "backbone")], ["images", "targets"], "Bring it."), KeyError),
    (BrickInputError("image", "4 dimensions", "3", "Add one."), ValueError),
    (BrickNotFoundError("no head here"), LookupError),
    (BrickMismatchError("seg/head", ["4 channels, found 3", "other strides"]), ValueError),
    (BrickIntegrityError("cut short"), OSError),
    (UnsafeBrickError("a pickle"), ValueError),
    (HubConnectionError("no response"), ConnectionError),
    (PushConflictError("somebody else changed seg/head"), Exception),
    (MissingExtraError("Training", "train"), ImportError),
    (MissingExtraError("The logger", package="wandb"), ImportError),
]
by_name = pytest.mark.parametrize(("error", "base"), ALL_ERRORS, ids=lambda value: getattr(value, "__name__", None))


@by_name
def test_every_error_is_a_brick_error_and_a_built_in_one(error, base):
    assert isinstance(error, BrickError)
    assert isinstance(error, base)


@by_name
def test_every_error_survives_pickling_with_its_text(error, base):
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert str(copied) == str(error) != ""
    assert copied.args == error.args


def test_no_error_of_the_module_is_left_out_above():
    public = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BrickError)}
    assert public == {BrickError, *(type(error) for error, _ in ALL_ERRORS)}


def test_the_tree_in_the_docstring_has_every_error_with_its_built_in_base():
    for error, base in ALL_ERRORS:
        (line,) = [line for line in errors.__doc__.splitlines() if f"─ {type(error).__name__} " in line]
        assert base is Exception or f"({base.__name__})" in line


def test_an_unknown_name_error_shows_the_nearest_names():
    text = str(UnknownNameError("model", "resnet19", ["vit", "resnet18"], "Look again."))
    assert text == "Unknown model 'resnet19'. Did you mean 'resnet18'? Look again."


def test_a_missing_input_error_names_bricks_and_values_and_prints_without_the_quotes_of_a_key_error():
    text = str(MissingInputError([("image", "backbone"), ("mask", "seg/loss")], ["images"]))
    assert text.startswith("Missing inputs: brick 'backbone' reads 'image'; brick 'seg/loss' reads 'mask'.")
    assert "Given: ['images']" in text
    assert "Did you mean 'images'?" in text


def test_an_input_error_says_where_what_was_expected_what_was_found_and_what_to_do():
    error = BrickInputError("image", "4 dimensions", "3", "Add a batch dimension.")
    assert str(error) == "image: expected 4 dimensions, found 3. Add a batch dimension."


def test_a_mismatch_error_lists_its_problems():
    error = BrickMismatchError("seg/head", iter(["4 channels, found 3", "other strides"]))
    assert error.problems == ["4 channels, found 3", "other strides"]
    assert str(error) == "seg/head:\n  - 4 channels, found 3\n  - other strides"


def test_a_missing_extra_error_says_how_to_install_it():
    assert "pip install 'brickyard[train]'" in str(MissingExtraError("Training", "train"))
    assert str(MissingExtraError("It", package="x")) == "It needs the package 'x'. Install it with: pip install x"


def test_far_names_are_listed_instead():
    assert nearest("zebra", ["b", "a"]) == "There are: 'a', 'b'."


def test_no_names_are_not_listed():
    assert nearest("zebra", []) == ""


def test_a_long_list_of_far_names_is_cut():
    shown = nearest("zebra", [f"name{number:02}" for number in range(30)])
    assert shown.endswith("'name11', ....")
    assert "name12" not in shown
