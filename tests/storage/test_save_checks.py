"""A save never replaces a good model by one that cannot be loaded; readers beside it get one whole model."""

import math
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from brickyard import BrickCollection, BrickError, BrickLoss, BrickTrainable, create_model, create_part
from brickyard.core.specs import HeadInfo
from tests.storage.test_save_load_damaged import contents


def deep(levels):
    value = 1
    for _ in range(levels):
        value = {"x": value}
    return value


def classifier(**options):
    return create_model("test_resnet_cls", labels=["a", "b", "c"], **options)


def set_metadata(key, value):
    return lambda model: model["cls/head"].metadata.update({key: value})


def set_labels(labels):
    def change(model):
        model["cls/head"].head = HeadInfo("cls", "linear", labels)

    return change


def replace_layer(model):
    model["cls/head"].model.weight = nn.Parameter(torch.zeros(3, 7))


def add_argument(model):
    model["sum"] = BrickLoss(create_part("weighted_sum", weights=[math.nan]), ["cls/loss"], ["sum"])


BROKEN = {
    "nan in metadata": (set_metadata("note", math.nan), "cls/head', field 'note'"),
    "inf in a list": (set_metadata("note", [1, {"x": -math.inf}]), "cls/head', field 'note'"),
    "nan in metrics": (set_metadata("metrics", {"Accuracy": math.nan}), "cls/head', field 'metrics'"),
    "a text in metrics": (set_metadata("metrics", {"Accuracy": "high"}), "cls/head"),
    "a tensor in metadata": (set_metadata("note", torch.ones(2)), "cls/head', field 'note'"),
    "half a character": (set_metadata("note", "\ud800"), "cls/head', field 'note'"),
    "60 levels": (set_metadata("note", deep(60)), "cls/head', field 'note'"),
    "2000 levels": (set_metadata("note", deep(2000)), "cls/head', field 'note'"),
    "9 MB": (set_metadata("note", "x" * 9_000_000), "cls/head"),
    "None as label": (set_labels(("a", None, "c")), "cls/head"),
    "numbers as labels": (set_labels((1, 2, 3)), "cls/head"),
    "no labels": (set_labels(None), "cls/head"),
    "two labels of three": (set_labels(("a", "b")), "cls/head"),
    "another layer": (replace_layer, "cls/head"),
    "nan as argument": (add_argument, "sum', field 'args'"),
    "nan as a setting": (lambda model: setattr(model["backbone"], "fixed_size", [math.nan, 2]), "backbone"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_could_not_be_loaded_is_not_saved(what, tmp_path):
    change, named = BROKEN[what]
    classifier().save_pretrained(tmp_path)
    before = contents(tmp_path)
    model = classifier()
    change(model)
    with pytest.raises(BrickError, match=named):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == before
    BrickCollection.from_pretrained(tmp_path)


def test_a_foreign_number_in_a_manifest_is_not_carried_on(tmp_path):
    model = classifier()
    model.save_pretrained(tmp_path)
    file = tmp_path / "bricks.json"
    file.write_text(file.read_text().replace("{", '{"x": 1e400,', 1))
    with pytest.raises(BrickError, match="1e400 is not a number"):
        BrickCollection.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    BrickCollection.from_pretrained(tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        classifier().save_pretrained(tmp_path / "model")
        classifier().save_bricks(tmp_path / "bricks")
    finally:
        os.umask(before)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~umask}


@contextmanager
def without_rights_of_root(folder):
    """Give a folder to a user without rights, and be that user within the block, if this process is of root."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    for parent in folder.parents:
        if parent.stat().st_uid == os.getuid() and parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_is_read_only_in_part_is_found_before_anything_changes(tmp_path):
    classifier().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "cls").chmod(0o555)
    before = contents(tmp_path)
    model = classifier()
    with without_rights_of_root(tmp_path):
        with pytest.raises(PermissionError, match="cannot be written"):
            model.save_pretrained(tmp_path / "model")
        BrickCollection.from_pretrained(tmp_path / "model")
    assert contents(tmp_path) == before


def save_for_ever(folder, stop):
    torch.set_num_threads(1)
    models = [with_value(value) for value in range(4)]
    value = 0
    while not stop.is_set():
        models[value % 4].save_pretrained(folder)
        value += 1


def with_value(value):
    bricks = {}
    for name in ("a", "b/head", "c/head", "d"):
        part = create_part("linear", in_features=8, out_features=8)
        nn.init.constant_(part.weight, value)
        bricks[name] = BrickTrainable(part, ["x"], [f"y_{name.replace('/', '_')}"])
        bricks[name].metadata = {"value": value}
    tree = {"a": bricks["a"], "b": {"head": bricks["b/head"]}, "c": {"head": bricks["c/head"]}, "d": bricks["d"]}
    if value % 2:
        del tree["d"]  # files come and go
    return BrickCollection(tree)


@pytest.mark.filterwarnings("error")
@pytest.mark.slow
def test_a_reader_beside_a_saver_gets_one_whole_model_every_time(tmp_path):
    folder = tmp_path / "model"
    with_value(0).save_pretrained(folder)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    saver = context.Process(target=save_for_ever, args=(folder, stop))
    saver.start()
    try:
        seen, end, start = set(), time.monotonic() + 60, folder.joinpath("bricks.json").stat().st_ino
        while folder.joinpath("bricks.json").stat().st_ino == start and time.monotonic() < end:
            time.sleep(0.05)
        for _ in range(40):
            model = BrickCollection.from_pretrained(folder)
            values = {brick.model.weight[0, 0].item() for brick in model.bricks().values()}
            values |= {brick.metadata["value"] for brick in model.bricks().values()}
            assert len(values) == 1
            assert ("d" in model) == (values.pop() % 2 == 0)
            seen.add(model["a"].metadata["value"])
    finally:
        stop.set()
        saver.join(60)
    assert len(seen) > 1


FLUSHED = """
import os, sys
from brickyard import BrickCollection, BrickTrainable, create_part
calls = []
fsync, rename = os.fsync, os.rename
os.fsync = lambda descriptor: (calls.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
from pathlib import Path
original = Path.rename
Path.rename = lambda self, target: (calls.append("commit"), original(self, target))[1]
part = create_part("linear", in_features=2, out_features=2)
BrickCollection({"a": {"head": BrickTrainable(part, ["x"], ["y"])}}).save_pretrained(sys.argv[1])
print(*calls, sep="\\n")
"""


@pytest.mark.slow
def test_files_are_flushed_to_disk_before_the_save_counts(tmp_path):
    run = subprocess.run([sys.executable, "-c", FLUSHED, str(tmp_path)], capture_output=True, text=True, check=True)
    before, after = (part.splitlines() for part in run.stdout.split("commit\n"))
    names = {os.path.basename(path) for path in before}
    assert {"bricks.json", "head.json", "head.safetensors", "a"} <= names
    assert str(tmp_path) in after


@pytest.mark.parametrize(
    ("part", "arguments", "name", "value"),
    [
        ("fcos_decode", {}, "score_threshold", 0.3),
        ("fcos_decode", {"iou_threshold": 0.4}, "iou_threshold", 0.7),
        ("retinanet_decode", {"count": 7}, "count", 9),
    ],
)
def test_what_a_part_computes_with_is_what_is_stored(part, arguments, name, value, tmp_path):
    model = BrickCollection({"x": BrickTrainable(create_part(part, **arguments), ["a"], ["b"])})
    setattr(model["x"].model, name, value)
    model.save_pretrained(tmp_path)
    assert getattr(BrickCollection.from_pretrained(tmp_path)["x"].model, name) == value


def test_statistics_that_are_set_are_stored(tmp_path):
    model = classifier()
    model["preprocessor"].model.mean.fill_(0.25)
    model.half().float().save_pretrained(tmp_path)
    assert BrickCollection.from_pretrained(tmp_path)["preprocessor"].model.mean.flatten().tolist() == [0.25] * 3


def test_a_conversion_of_dtype_stores_the_arguments_as_they_were(tmp_path):
    classifier().half().save_pretrained(tmp_path)
    loaded = BrickCollection.from_pretrained(tmp_path)
    assert torch.equal(loaded["preprocessor"].model.mean, classifier()["preprocessor"].model.mean)


@pytest.mark.parametrize("wrap", ["compiled", "parallel", "compiled inside"])
def test_wrappers_leave_no_trace_in_a_file(wrap, tmp_path):
    model = BrickCollection({"x": BrickTrainable(create_part("linear", in_features=2, out_features=2), ["a"], ["b"])})
    stack = BrickCollection({"x": BrickTrainable(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), ["a"], ["b"])})
    expected = {
        key: value.clone() for key, value in (stack if "inside" in wrap else model)["x"].model.state_dict().items()
    }
    if wrap == "compiled":
        model["x"].model = torch.compile(model["x"].model)
    elif wrap == "parallel":
        model["x"].model = nn.DataParallel(model["x"].model)
    else:
        stack["x"].model[1] = torch.compile(stack["x"].model[1])
        stack.save_bricks(tmp_path)
        stack.load_bricks(tmp_path)
        plain = BrickCollection({"x": BrickTrainable(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), ["a"], ["b"])})
        plain.load_bricks(tmp_path)
        assert all(torch.equal(value, expected[key]) for key, value in plain["x"].model.state_dict().items())
        return
    model.save_pretrained(tmp_path)
    loaded = BrickCollection.from_pretrained(tmp_path)["x"].model
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_a_module_that_two_bricks_share_is_refused(tmp_path):
    part = create_part("linear", in_features=2, out_features=2)
    model = BrickCollection({"x": BrickTrainable(part, ["a"], ["b"]), "y": BrickTrainable(part, ["b"], ["c"])})
    with pytest.raises(BrickError, match="brick 'y': expected a module of its own, found that of brick 'x'"):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == {}
