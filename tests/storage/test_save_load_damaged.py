"""Folders that were damaged, by accident or by intent: refused with an error of ours, and nothing else happens."""

import json
import os
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch

from brickyard import (
    BrickCollection,
    BrickError,
    BrickIntegrityError,
    BrickTrainable,
    UnsafeBrickError,
    create_model,
    create_part,
)
from tests.hub.damage import DAMAGE, HEAD, MANIFEST, WEIGHTS


@contextmanager
def within(seconds):
    """Fail where something takes for ever."""

    def stop(*_):
        raise AssertionError(f"it took over {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The files of a saved model."""
    folder = tmp_path_factory.mktemp("stored")
    torch.manual_seed(0)
    create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(folder)
    return contents(folder)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# What a folder's owner may do by hand is told by a warning; only what does not fit is an error.
STALE = "requires.backbone.sha256 '" + "0" * 40 + "'"  # the damage that leaves a model of which a head is stale
EDITED = (
    *(f"entry config {value!r}" for value in ("0" * 20,)),
    *(f"entry weights {value!r}" for value in ("0" * 20,)),
    STALE,
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_with_an_error_of_ours(damage, stored, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    damaged = DAMAGE[damage](stored)
    assert damaged != stored
    write(folder, damaged)
    monkeypatch.chdir(tmp_path)
    expected = (BrickError, UserWarning) if damage in EDITED else BrickError
    with within(20), pytest.raises(expected) as caught:
        BrickCollection.from_pretrained(folder)
    assert len(str(caught.value)) > 20
    assert contents(folder) == damaged
    assert os.listdir(tmp_path) == ["model"]


def test_an_author_s_number_of_layers_is_refused_in_time(stored, tmp_path):
    write(tmp_path, DAMAGE["timm layers"](stored))
    with within(20), pytest.raises(UnsafeBrickError, match=r"10000 modules|expected arguments in"):
        BrickCollection.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["cls/head.json", "cls/head.safetensors", "bricks.json"])
def test_a_pipe_is_not_waited_for(name, stored, tmp_path):
    write(tmp_path, {key: content for key, content in stored.items() if key != name})
    os.mkfifo(tmp_path / name)
    with within(5), pytest.raises(BrickError):
        BrickCollection.from_pretrained(tmp_path)


def test_a_pipe_beside_the_bricks_is_left_alone(stored, tmp_path):
    write(tmp_path, stored)
    os.mkfifo(tmp_path / "other.json")
    with within(5):
        BrickCollection.from_pretrained(tmp_path)


def test_a_link_out_of_the_folder_is_read_but_never_written_through(stored, tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "outside"
    write(folder, stored)
    shutil.move(folder / "cls", outside)
    (folder / "cls").symlink_to(outside)
    before = contents(tmp_path)
    model = BrickCollection.from_pretrained(folder)
    with torch.no_grad():
        model["cls/head"].model.bias += 1
    with pytest.raises(UnsafeBrickError, match="is outside of"):
        model.save_pretrained(folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("link", [".brickyard", ".brickyard/commit", ".brickyard/new-1"])
def test_what_a_link_leads_to_is_not_taken_for_an_unfinished_save(link, stored, tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "outside"
    write(folder, stored)
    write(outside, {"commit/backbone.json": b"mine", "new-1/x": b"mine", "backbone.json": b"mine"})
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(outside)
    model = create_model("test_resnet_cls", labels=["a", "b", "c"])
    if link == ".brickyard/new-1":
        model.save_pretrained(folder)
    else:
        with pytest.raises(UnsafeBrickError):
            model.save_pretrained(folder)
    assert contents(outside) == {"commit/backbone.json": b"mine", "new-1/x": b"mine", "backbone.json": b"mine"}


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "../outside"])
def test_an_unfinished_save_by_somebody_else_removes_nothing_outside(name, stored, tmp_path):
    folder = tmp_path / "model"
    write(folder, stored)
    write(tmp_path, {"outside.txt": b"mine", "outside/x": b"mine"})
    target = str(tmp_path / "outside.txt") if name.startswith("/") else name
    write(folder, {".brickyard/commit/.removed": target.encode()})
    with pytest.raises(UnsafeBrickError):
        create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(folder)
    assert {"outside.txt", "outside/x"} <= contents(tmp_path).keys()


def test_a_file_in_the_way_of_a_folder_is_found_before_anything_changes(stored, tmp_path):
    write(tmp_path, {"cls": b"a file of the user's"})
    with pytest.raises(UnsafeBrickError, match="blocked by a file or folder"):
        create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(tmp_path)
    assert contents(tmp_path) == {"cls": b"a file of the user's"}


def test_a_file_that_is_mended_loads_at_once(stored, tmp_path):
    write(tmp_path, {**stored, WEIGHTS: stored[WEIGHTS][:-1] + b"\xff"})
    with pytest.raises(BrickIntegrityError, match="sha256"):
        BrickCollection.from_pretrained(tmp_path)
    write(tmp_path, stored)
    BrickCollection.from_pretrained(tmp_path)


def test_a_file_that_is_damaged_after_it_was_found_right_is_found_out(stored, tmp_path):
    write(tmp_path, stored)
    for _ in range(3):
        BrickCollection.from_pretrained(tmp_path)
    file = tmp_path / WEIGHTS
    times = file.stat()
    file.write_bytes(stored[WEIGHTS][:-1] + b"\xff")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(BrickIntegrityError, match="sha256"):
        BrickCollection.from_pretrained(tmp_path)


def test_a_name_that_no_file_system_takes_is_refused(tmp_path):
    part = create_part("linear", in_features=4, out_features=2)
    model = BrickCollection({"x" * 300: BrickTrainable(part, ["x"], ["y"])})
    with pytest.raises(UnsafeBrickError, match="at most 200 characters"):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == {}


def test_the_damage_is_what_it_says(stored):
    manifest = json.loads(DAMAGE["type 'os.system'"](stored)[MANIFEST])
    config = json.loads(DAMAGE["type 'os.system'"](stored)[HEAD])
    assert config["type"] == "os.system"
    assert manifest["bricks"]["cls/head"]["config"] != json.loads(stored[MANIFEST])["bricks"]["cls/head"]["config"]
    assert len(DAMAGE) >= 200
