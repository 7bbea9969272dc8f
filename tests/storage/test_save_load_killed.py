"""A process that is killed while it saves: the folder is the old model or the new one, and the next save works."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from brickyard import BrickCollection, BrickNotFoundError, BrickTrainable, create_part
from brickyard.storage.atomic import write_whole

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def killed_at(number, folder, action):
    """Run `action` in a child that is killed at its n-th change to a file below `folder`; tell whether it was."""
    child = os.fork()
    if child == 0:
        counter = iter(range(number))

        def hook(event, args):
            path = str(args[0]) if event in CHANGES and args else ""
            reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
            if path.startswith(str(folder)) and not reads and next(counter, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def weights(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, expected):
    found = model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def files(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


@pytest.fixture(scope="module")
def models():
    """An old model with a head more, and a new one."""

    def linear(reads, writes):
        return BrickTrainable(create_part("linear", in_features=4, out_features=4), [reads], [writes])

    torch.manual_seed(0)
    return [
        BrickCollection({"backbone": linear("image", "features"), "a": {"head": linear("features", "a")}, **more})
        for more in ({"b": {"head": linear("features", "b")}}, {"c": linear("features", "c")})
    ]


@pytest.mark.slow
def test_a_killed_save_leaves_the_old_model_or_the_new_one(models, tmp_path):
    old, new = models
    before, after = weights(old), weights(new)
    new.save_pretrained(tmp_path / "reference")
    number, states, is_killed = 0, [], True
    while is_killed:
        folder = tmp_path / str(number)
        old.save_pretrained(folder)
        is_killed = killed_at(number, folder, lambda folder=folder: new.save_pretrained(folder))
        model = BrickCollection.from_pretrained(folder)  # no warning of a mix either
        assert same(model, before) or same(model, after), number
        states.append(same(model, after))
        new.save_pretrained(folder)
        assert files(folder) == files(tmp_path / "reference"), number
        assert same(BrickCollection.from_pretrained(folder), after)
        number += 1
    assert number > 20
    assert states == sorted(states)  # old up to one moment, new from then on
    assert {True, False} == set(states)


@pytest.mark.slow
def test_a_killed_save_to_a_new_folder_leaves_no_model_or_the_whole(models, tmp_path):
    _, new = models
    number, is_killed = 0, True
    while is_killed:
        folder = tmp_path / str(number)
        is_killed = killed_at(number, folder, lambda folder=folder: new.save_pretrained(folder))
        try:
            assert same(BrickCollection.from_pretrained(folder), weights(new))
        except BrickNotFoundError:
            assert is_killed
        new.save_pretrained(folder)
        assert ".brickyard" not in os.listdir(folder)
        assert same(BrickCollection.from_pretrained(folder), weights(new))
        number += 1
    assert number > 20
    assert sorted(os.listdir(tmp_path)) == sorted(map(str, range(number)))


def test_two_writers_of_one_folder_leave_one_of_their_models(models, tmp_path):
    children = []
    for model in models * 3:
        child = os.fork()
        if child == 0:
            try:
                for _ in range(4):
                    model.save_pretrained(tmp_path / "model")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    found = BrickCollection.from_pretrained(tmp_path / "model")
    assert any(same(found, weights(model)) for model in models)
    assert ".brickyard" not in os.listdir(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


def test_a_lock_file_is_written_whole(tmp_path):
    file = Path(tmp_path / "model.lock.json")
    write_whole(file, "old")
    number = 0
    while killed_at(number, tmp_path, lambda: write_whole(file, "new")):
        assert file.read_text() in ("old", "new")
        number += 1
    assert file.read_text() == "new"
    assert number > 1
