"""Loaded weights are memory of the process, checked before they are allocated."""

import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from brickyard import (
    BrickCollection,
    BrickError,
    BrickTrainable,
    UnsafeBrickError,
    create_model,
    create_part,
    register_part,
)
from brickyard.storage.tensor_file import read_weights
from brickyard.storage.weights import uninitialised
from tests.hub.damage import set_to

BACKBONES = ["test_resnet", "test_vit", "test_convnext"]


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("way", ["copy", "truncate", "remove", "zero"])
def test_a_model_does_not_change_with_its_file(way, folder, tmp_path):
    model = BrickCollection.from_pretrained(folder).eval()
    image = torch.rand(1, 3, 64, 64)
    before, logits = state(model), model({"image": image}, outputs="cls/logits")["cls/logits"]
    file = folder / "backbone.safetensors"
    if way == "copy":
        other = {key: torch.full_like(value, 3) for key, value in load_file(file).items()}
        save_file(other, tmp_path / "other.safetensors")
        shutil.copyfile(tmp_path / "other.safetensors", file)
    elif way == "truncate":
        os.truncate(file, 0)
    elif way == "remove":
        file.unlink()
    else:
        with file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
    assert torch.equal(model({"image": image}, outputs="cls/logits")["cls/logits"], logits)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_descriptor_or_mapping_of_a_file_stays_open(folder):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        models = [BrickCollection.from_pretrained(folder, bricks="cls/head") for _ in range(256)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        assert str(folder) not in maps.read()
    assert len(models) == 256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_tensors_are_those_of_the_safetensors_library(dtype, tmp_path):
    values = {"a": torch.arange(6).view(2, 3).to(dtype), "empty": torch.zeros(0, 3, dtype=dtype)}
    values |= {"scalar": torch.ones((), dtype=dtype), "f": torch.rand(5)}
    save_file(values, tmp_path / "x.safetensors", metadata={"format": "pt", "more": "text"})
    expected, loaded = load_file(tmp_path / "x.safetensors"), read_weights(tmp_path / "x.safetensors")
    assert loaded.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(loaded[key], value)
        assert loaded[key].dtype == value.dtype
        assert loaded[key].untyped_storage().nbytes() == value.nbytes  # it can be saved, copied and pickled alone
        assert loaded[key].data_ptr() % 64 == 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_loaded_model_equals_the_one_that_was_saved(backbone, tmp_path):
    model = create_model(f"{backbone}_cls", num_classes=3).eval()
    model.freeze("backbone")
    model.save_pretrained(tmp_path)
    loaded = BrickCollection.from_pretrained(tmp_path).eval()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    assert not any(parameter.requires_grad for parameter in loaded["backbone"].parameters())
    size = model["backbone"].provides.input.size
    image = torch.rand(1, 3, *size)
    outputs = [each({"image": image}, outputs="cls/logits")["cls/logits"] for each in (model, loaded)]
    assert torch.equal(*outputs)


def test_tied_weights_stay_tied(tmp_path):
    BrickCollection({"x": BrickTrainable(create_part("tests_tied"), ["a"], ["b"])}).save_pretrained(tmp_path)
    module = BrickCollection.from_pretrained(tmp_path)["x"].model
    assert module.first.weight is module.second.weight


@register_part("tests_tied")
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, value):
        return self.second(self.first(value))


@register_part("tests_grid")
class Grid(nn.Module):
    """A part with tensors that are not stored, one of them in a list."""

    def __init__(self, size: int):
        super().__init__()
        self.fc = nn.Linear(size, size)
        self.grids = [torch.arange(size).float()]
        self.register_buffer("scale", torch.full((size,), 2.0), persistent=False)

    def forward(self, value):
        return self.fc(value * self.scale + self.grids[0])


def test_tensors_that_are_not_stored_are_computed(tmp_path):
    model = BrickCollection({"x": BrickTrainable(create_part("tests_grid", size=4), ["a"], ["b"])})
    model.save_pretrained(tmp_path)
    value = torch.rand(2, 4)
    assert torch.equal(BrickCollection.from_pretrained(tmp_path)({"a": value})["b"], model({"a": value})["b"])


@register_part("tests_loading")
class Loading(nn.Module):
    """A part that loads a stored model when it is built."""

    def __init__(self, folder: str):
        super().__init__()
        self.inner = BrickCollection.from_pretrained(folder)
        self.fc = nn.Linear(2, 2)

    def forward(self, value):
        return self.fc(value)


def test_a_part_may_load_a_stored_model_when_it_is_built(folder, tmp_path):
    model = BrickCollection({"x": BrickTrainable(create_part("tests_loading", folder=str(folder)), ["a"], ["b"])})
    model.save_pretrained(tmp_path / "outer")
    found = []
    thread = threading.Thread(
        target=lambda: found.append(BrickCollection.from_pretrained(tmp_path / "outer")), daemon=True
    )
    thread.start()
    thread.join(60)
    assert found
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found[0].state_dict().items())


def test_modules_of_other_threads_are_initialised_meanwhile():
    built = []

    def build():
        torch.manual_seed(0)
        built.append(nn.Linear(3, 3).weight)

    with uninitialised():
        thread = threading.Thread(target=build)
        thread.start()
        thread.join()
    torch.manual_seed(0)
    assert torch.equal(built[0], nn.Linear(3, 3).weight)


PROBE = """
import resource, sys, time
from pathlib import Path
from brickyard import BrickCollection, BrickError

BrickCollection.from_pretrained(Path(sys.argv[1]) / "good")
for folder in sorted(Path(sys.argv[1]).glob("bad*")):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        BrickCollection.from_pretrained(folder)
    except BrickError:
        print(time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
TOO_LARGE = [
    ("backbone", {"name": "vit_giant_patch14_dinov2"}),
    ("backbone", {"name": "test_vit", "depth": 10_000_000}),
    ("backbone", {"name": "test_vit", "img_size": 60_000}),
    ("backbone", {"name": "test_vit", "embed_dim": 65_536}),
    ("cls/head", {"out_features": 10_000_000}),
    ("cls/head", {"in_features": 1_000_000}),
    ("cls/metrics", {"num_classes": 10_000_000}),
]


@pytest.mark.slow
def test_arguments_for_too_much_memory_are_refused_before_it_is_allocated(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "good")
    for number, (path, arguments) in enumerate(TOO_LARGE):
        shutil.copytree(folder, tmp_path / f"bad{number}")
        edit(tmp_path / f"bad{number}", path, **arguments)
    run = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True, check=True)
    refused = [tuple(map(float, line.split())) for line in run.stdout.splitlines()]
    assert len(refused) == len(TOO_LARGE)
    assert max(megabytes for _, megabytes in refused) < 300
    assert max(seconds for seconds, _ in refused) < 3  # about half a second on an idle machine


def edit(folder, path, **arguments):
    """Change arguments in the JSON of a brick, and its hash in the manifest."""
    file = folder / f"{path}.json"
    config = json.loads(file.read_text())
    config["args"] |= arguments
    file.write_text(json.dumps(config))
    manifest = json.loads((folder / "bricks.json").read_text())
    manifest["bricks"][path]["config"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "bricks.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "options", [{"name": "test_vit", "proj_drop_rate": 2.0}, {"no_such_option": 1}, {"layers": "x"}]
)
def test_what_timm_raises_for_stored_options_names_the_brick(options, folder):
    edit(folder, "backbone", **options)
    with pytest.raises(BrickError, match="backbone"):
        BrickCollection.from_pretrained(folder)


@pytest.mark.parametrize("name", ["bricks.json", "cls/head.json", "cls/head.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_only_regular_files_are_opened(name, kind, folder, monkeypatch):
    (folder / name).unlink()
    monkeypatch.chdir((folder / name).parent)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(os.path.basename(name))  # a path of a socket has at most 108 characters
    else:
        (folder / name).symlink_to("/dev/zero")
    start = time.monotonic()
    with pytest.raises(BrickError):
        BrickCollection.from_pretrained(folder)
    model = create_model("test_resnet_cls", labels=["a", "b", "c"])
    if name.endswith(".safetensors"):
        with pytest.raises(UnsafeBrickError, match=f"is a {kind}, expected a regular file"):
            model.load_bricks(folder)
    assert time.monotonic() - start < 20


def test_the_number_of_bricks_and_of_names_is_bounded(folder):
    manifest = json.loads((folder / "bricks.json").read_text())
    entry = manifest["bricks"]["cls/loss"]
    bricks = {**manifest["bricks"], **{f"x{number}": {**entry, "at": f"x{number}"} for number in range(10_000)}}
    (folder / "bricks.json").write_text(json.dumps({**manifest, "bricks": bricks}))
    with pytest.raises(UnsafeBrickError, match="at most 1000 bricks, found 10007") as caught:
        BrickCollection.from_pretrained(folder)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("field", ["inputs", "outputs", "tags"])
def test_the_number_of_names_of_a_brick_is_bounded(field, folder):
    files = {name: (folder / name).read_bytes() for name in ("bricks.json", "cls/head.json")}
    names = [f"name{number}" for number in range(300_000)]
    damaged = set_to("cls/head.json", field, value=names)(files)
    (folder / "cls/head.json").write_bytes(damaged["cls/head.json"])
    start = time.monotonic()
    with pytest.raises(UnsafeBrickError, match=f"at most 1000 names in '{field}', found 300000"):
        BrickCollection.from_pretrained(folder)
    assert time.monotonic() - start < 10


def test_messages_are_bounded():
    error = UnsafeBrickError("x" * 70_000)
    assert len(str(error)) < 4100


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c", "d"]])
def test_labels_of_another_number_than_the_head_has_are_refused(labels, folder):
    files = {name: (folder / name).read_bytes() for name in ("bricks.json", "cls/head.json")}
    damaged = set_to("cls/head.json", "labels", value=labels)(files)
    (folder / "cls/head.json").write_bytes(damaged["cls/head.json"])
    with pytest.raises(BrickError, match=f"labels: expected 3, one for each class, found {len(labels)}"):
        BrickCollection.from_pretrained(folder)
