"""A process that is killed while it pushes or pulls: all of it is done or nothing, and the next try works."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from brickyard import BrickCollection, create_model
from brickyard.storage.locks import temp_folder
from tests.storage.test_save_load_killed import CHANGES, same, weights

REPO = "owner/model"


@pytest.fixture
def model():
    return create_model("test_resnet_cls", labels=["a", "b", "c"])


def in_a_child(action, hook=None):
    """Start `action` in another process of this program."""
    child = os.fork()
    if child:
        return child
    try:
        close_session()  # its connections are the parent's
        if hook is not None:
            sys.addaudithook(hook)
        action()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("number", range(12))
def test_a_killed_push_is_made_or_not(number, model, hub):
    model.push_to_hub(REPO)
    before = weights(model)
    with torch.no_grad():
        model["cls/head"].model.bias += 1
        model["cls/head"].model.weight += 1
    children = []
    for _ in range(number):
        hub.fault("*", before=lambda: None)
    hub.fault("*", before=lambda: os.kill(children[0], signal.SIGKILL) if children else None)
    children.append(in_a_child(lambda: model.push_to_hub(REPO)))
    _, status = os.waitpid(children[0], 0)
    assert status in (0, signal.SIGKILL)
    hub.hint()
    found = BrickCollection.from_pretrained(REPO)
    assert same(found, before) or same(found, weights(model))
    model.push_to_hub(REPO)
    assert same(BrickCollection.from_pretrained(REPO), weights(model))
    assert len(hub.commits(REPO)) == 3


def test_a_killed_pull_leaves_a_cache_that_works(model, hub, tmp_path, monkeypatch):
    commit = model.push_to_hub(REPO).oid
    expected = weights(model)
    number, is_killed = 0, True
    while is_killed:
        cache = tmp_path / str(number)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        counter = iter(range(number))

        def hook(event, args, cache=cache, counter=counter):
            path = str(args[0]) if event in CHANGES and args else ""
            reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
            if path.startswith(str(cache)) and not reads and next(counter, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        child = in_a_child(lambda: BrickCollection.from_pretrained(REPO, revision=commit), hook)
        _, status = os.waitpid(child, 0)
        is_killed = status == signal.SIGKILL
        assert is_killed or status == 0
        assert same(BrickCollection.from_pretrained(REPO, revision=commit), expected)
        with hub.recording() as seen:
            assert same(BrickCollection.from_pretrained(REPO, revision=commit), expected)
        assert len(seen) == 0
        number += 9
    assert number > 27
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def test_the_temporary_folder_of_a_killed_push_is_removed_by_the_next_one(model, hub, tmp_path, monkeypatch):
    temp = tmp_path / "tmp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    children = []
    hub.fault("*/preupload/*", before=lambda: os.kill(children[0], signal.SIGKILL))
    children.append(in_a_child(lambda: model.push_to_hub(REPO)))
    os.waitpid(children[0], 0)
    assert [path.name for path in temp.iterdir() if path.is_dir()]
    hub.hint()
    with temp_folder("brickyard-push-") as other:  # of a push that is still running
        (other / "x").touch()
        model.push_to_hub(REPO)
        assert [path for path in temp.iterdir() if path.is_dir()] == [other]
        assert (other / "x").exists()
    assert list(temp.iterdir()) == []
