"""What a user may name as the place of a model."""

from pathlib import Path

import pytest
from huggingface_hub.errors import HfUriError

from brickyard import BrickInputError, BrickNotFoundError, UnknownNameError, UnsafeBrickError, create_model
from brickyard.storage.sources.files import FolderFiles, LockFiles
from brickyard.storage.sources.hub import HubFiles
from brickyard.storage.sources.uri import is_source, locate, open_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    create_model("test_resnet_cls", num_classes=2).save_pretrained(tmp_path / "user" / "repo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRICKYARD_ZOO", str(tmp_path / "user"))
    return tmp_path / "user" / "repo"


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("user/repo", ""),  # a folder of this name comes first
        ("local-dir:user/repo", ""),
        ("./user/repo/cls", "cls"),
        ("local-dir:user/repo/cls/head", "cls/head"),
        ("zoo://repo", ""),
        ("zoo://repo/cls", "cls"),
        ("repo", ""),
    ],
)
def test_a_place_on_this_machine(text, inside, folder):
    files, path = open_source(text)
    assert isinstance(files, FolderFiles)
    assert (files.folder.resolve(), path) == (folder, inside)


@pytest.mark.parametrize(
    ("text", "location", "inside"),
    [
        ("hf://a/b", "hf://a/b@main", ""),
        ("a/b", "hf://a/b@main", ""),
        ("a/b@v1", "hf://a/b@v1", ""),
        ("hf-hub:a/b@v1", "hf://a/b@v1", ""),
        ("hf://a/b/seg/head", "hf://a/b@main", "seg/head"),
        ("hf://a/b@refs/pr/1/seg", "hf://a/b@refs/pr/1", "seg"),
        ("hf://a/b@x%2Fy/seg", "hf://a/b@x/y", "seg"),
    ],
)
def test_a_place_on_the_hub_is_found_without_asking_it(text, location, inside):
    files, path = open_source(text)
    assert isinstance(files, HubFiles)
    assert (files.location, path) == (location, inside)


def test_a_revision_may_stand_beside_the_place(folder):
    assert open_source("a/b", revision="v2")[0].location == "hf://a/b@v2"
    assert open_source("a/b@v2", revision="v2")[0].location == "hf://a/b@v2"
    with pytest.raises(BrickInputError, match="as in the source"):
        open_source("a/b@v1", revision="v2")


def test_a_file_of_json_is_a_lock(folder):
    assert isinstance(open_source(folder / "bricks.json")[0], LockFiles)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hf://a/b/../seg", UnsafeBrickError),
        ("hf://a/b/seg.json", UnsafeBrickError),
        ("hf://a/b@..%2F..%2Fx/seg", UnsafeBrickError),
        ("hf://datasets/a/b", BrickInputError),
        ("hf://b", HfUriError),
        ("zoo://none", UnknownNameError),
        ("zoo://repo/../x", UnsafeBrickError),
        ("local-dir:none", BrickNotFoundError),
        ("user/repo/../x", UnsafeBrickError),
        ("no such model", UnknownNameError),
    ],
)
def test_what_is_no_place_is_refused(text, error, folder):
    with pytest.raises(error):
        open_source(text)


def test_a_name_is_told_from_a_place():
    assert [is_source(text) for text in ("hf://a/b", "hf-hub:a/b", "local-dir:x", "zoo://x")] == [True] * 4
    assert not is_source("resnet18_cls.in1k")


def test_what_is_stored_here_is_located_by_its_full_path(folder, monkeypatch):
    lock = folder.parent / "x.lock.json"
    found = [locate(text) for text in ("user/repo", "local-dir:user/repo", Path("user/repo"), "user/x.lock.json")]
    assert found == [f"local-dir:{folder}"] * 3 + [str(lock)]
    assert locate("model.onnx") == str(folder.parents[1] / "model.onnx")


def test_a_folder_without_a_model_is_no_place(folder):
    (folder.parents[1] / "test_resnet_cls").mkdir()
    assert locate("test_resnet_cls") == "test_resnet_cls"
    assert locate("zoo://repo/cls") == "zoo://repo/cls"
    (folder.parents[1] / "repo").mkdir()
    assert open_source("repo")[0].folder.resolve() == folder  # the zoo's


def test_a_lock_that_is_not_there_is_told(folder):
    with pytest.raises(BrickNotFoundError, match=r"No lock user/none\.json"):
        open_source("user/none.json")


@pytest.mark.parametrize("revision", ["../../x", "a/../../x", "/abs", "a\\..\\x"])
def test_a_revision_that_is_a_path_outside_of_the_cache_is_refused(revision):
    with pytest.raises(UnsafeBrickError, match="outside of the cache"):
        open_source("hf://user/repo/seg", revision=revision)
