import hashlib
import os
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import nn

from brickyard import (
    BrickCollection,
    BrickIntegrityError,
    BrickMismatchError,
    BrickModule,
    BrickTrainable,
    UnsafeBrickError,
    create_model,
)
from brickyard.storage import weights
from brickyard.storage.sources.uri import locate
from tests.toys import TinyBackbone, tiny_bricks

FILES = ["backbone.safetensors", "head/classifier.safetensors"]


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones included."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def equal(left: nn.Module | dict, right: nn.Module | dict) -> bool:
    left, right = (each if isinstance(each, dict) else each.state_dict() for each in (left, right))
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture
def saved(collection, tmp_path) -> Path:
    collection.save_bricks(tmp_path / "model")
    return tmp_path / "model"


def test_each_brick_with_weights_has_one_file_under_its_path(saved):
    assert files_in(saved) == ["backbone.safetensors", "head", "head/classifier.safetensors"]


def test_a_saved_collection_loads_into_a_fresh_one(collection, saved):
    other = BrickCollection(tiny_bricks())
    assert not equal(other, collection)
    other.load_bricks(saved)
    assert equal(other, collection)


def test_a_file_loads_into_the_bare_module_by_itself(collection, saved):
    module = TinyBackbone()
    module.load_state_dict(load_file(saved / "backbone.safetensors"))
    assert equal(module, collection["backbone"].model)


def test_a_bare_modules_file_loads_into_its_brick(collection, saved):
    module = TinyBackbone()
    save_file(module.state_dict(), saved / "backbone.safetensors")
    collection.load_bricks(saved)
    assert equal(module, collection["backbone"].model)


def test_equal_weights_are_equal_bytes_with_only_the_format_in_the_header(collection, saved, tmp_path):
    collection.save_bricks(tmp_path / "again")
    for name in FILES:
        hashes = {hashlib.sha256((folder / name).read_bytes()).digest() for folder in (saved, tmp_path / "again")}
        assert len(hashes) == 1
        with safe_open(saved / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_paths_may_be_strings(collection, tmp_path):
    collection.save_bricks(str(tmp_path / "model"))
    collection.load_bricks(str(tmp_path / "model"))


def test_a_nested_collection_saves_and_loads_under_its_own_names(collection, tmp_path):
    collection["head"].save_bricks(tmp_path / "head")
    assert files_in(tmp_path / "head") == ["classifier.safetensors"]
    other = BrickCollection(tiny_bricks())
    other["head"].load_bricks(tmp_path / "head")
    assert equal(other["head"], collection["head"])


def test_a_folder_with_files_is_refused_unless_it_may_exist(collection, saved):
    before = contents(saved)
    with pytest.raises(FileExistsError, match="exist_ok=True"):
        collection.save_bricks(saved)
    assert contents(saved) == before
    with torch.no_grad():
        collection["backbone"].model.conv.weight.zero_()
    (saved / "notes.txt").write_text("mine")
    collection.save_bricks(saved, exist_ok=True)
    assert load_file(saved / "backbone.safetensors")["conv.weight"].abs().sum() == 0
    assert (saved / "notes.txt").read_text() == "mine"


def test_an_empty_folder_will_do(collection, tmp_path):
    collection.save_bricks(tmp_path)
    assert files_in(tmp_path) == ["backbone.safetensors", "head", "head/classifier.safetensors"]


def fail_at(monkeypatch, number: int, owner, name: str) -> None:
    real, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise OSError("disk full")
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("existing", ["absent", "empty", "other files", "old model", "part of an old model"])
@pytest.mark.parametrize(
    ("owner", "name"), [(weights, "write_weights"), (Path, "rename")], ids=["write", "the moment it counts"]
)
def test_a_save_that_fails_leaves_everything_as_it_was(collection, tmp_path, monkeypatch, existing, owner, name):
    folder = tmp_path / "models" / "model"
    folder.parent.mkdir()
    if existing != "absent":
        folder.mkdir(parents=True)
    if existing == "other files":
        (folder / "notes.txt").write_text("mine")
    if "old model" in existing:
        BrickCollection(tiny_bricks()).save_bricks(folder)
    if "part" in existing:
        (folder / "head" / "classifier.safetensors").unlink()
        (folder / "head").rmdir()
    before = contents(tmp_path)
    fail_at(monkeypatch, 2 if name == "write_weights" else 1, owner, name)
    with pytest.raises(OSError, match="disk full"):
        collection.save_bricks(folder, exist_ok=True)
    assert contents(tmp_path) == before


def test_a_save_that_fails_after_all_is_written_counts(collection, saved, monkeypatch):
    other = BrickCollection(tiny_bricks())
    with monkeypatch.context() as patched:
        fail_at(patched, 2, os, "replace")
        with pytest.raises(OSError, match="disk full"):
            other.save_bricks(saved, exist_ok=True)
    collection.load_bricks(saved)
    assert equal(collection, other)
    collection.save_bricks(saved, exist_ok=True)
    assert files_in(saved) == ["backbone.safetensors", "head", "head/classifier.safetensors"]


def test_a_save_leaves_no_temporary_files(collection, tmp_path):
    for _ in range(2):
        collection.save_bricks(tmp_path / "model", exist_ok=True)
    assert os.listdir(tmp_path) == ["model"]
    assert files_in(tmp_path / "model") == ["backbone.safetensors", "head", "head/classifier.safetensors"]


def test_others_may_read_a_saved_folder_as_any_new_one(collection, tmp_path):
    (tmp_path / "plain").mkdir()
    collection.save_bricks(tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_brick_without_a_file_keeps_its_weights_with_a_warning_at_the_caller(collection, saved):
    (saved / "head" / "classifier.safetensors").unlink()
    other = BrickCollection(tiny_bricks())
    classifier = state(other["head"])
    with pytest.warns(UserWarning, match="Brick 'head/classifier' has no matching weight file") as caught:
        other.load_bricks(saved)
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
    assert equal(other["backbone"], collection["backbone"])
    assert equal(other["head"], classifier)


def test_bricks_without_files_are_reported_in_declared_order(tmp_path):
    names = [f"brick{number}" for number in range(8)]
    collection = BrickCollection({name: BrickModule(nn.Linear(1, 1), ["x"], [f"y_{name}"]) for name in names})
    with pytest.warns(UserWarning, match="has no matching weight file") as caught:
        collection.load_bricks(tmp_path)
    assert [str(warning.message).split("'")[1] for warning in caught] == names


def test_a_stray_file_is_reported_and_left_alone(collection, saved):
    (saved / "deep").mkdir()
    save_file({"x": torch.ones(1)}, saved / "deep" / "stray.safetensors")
    with pytest.warns(UserWarning, match=r"File 'deep/stray.safetensors'.*belongs to no brick"):
        collection.load_bricks(saved)


def test_what_loads_without_a_problem_does_so_without_a_warning(collection, saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection.load_bricks(saved)


def spoiled(saved: Path, what: str) -> None:
    """Make the second brick's file a bad one."""
    file = saved / "head" / "classifier.safetensors"
    tensors = load_file(file)
    if what == "shape":
        tensors["fc.weight"] = torch.zeros(2, 5)
    elif what == "missing":
        del tensors["fc.weight"]
    elif what == "extra":
        tensors["more"] = torch.zeros(1)
    elif what == "type":
        tensors["fc.weight"] = torch.zeros(3, 5, dtype=torch.int64)
    save_file(tensors, file)
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "text":
        file.write_text("no weights at all, but long enough for a header")
    elif what == "pickle":
        torch.save(tensors, file.with_suffix(".pt"))
        file.unlink()


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("shape", BrickMismatchError, r"head/classifier: 'fc.weight': expected shape \(3, 5\), found \(2, 5\)"),
        ("missing", BrickMismatchError, "head/classifier: 'fc.weight' is missing in the file"),
        ("extra", BrickMismatchError, "head/classifier: 'more' of the file is not in the module"),
        ("type", BrickMismatchError, "head/classifier: 'fc.weight': expected torch.float32, found torch.int64"),
        ("cut", BrickIntegrityError, "classifier.safetensors is truncated"),
        ("empty", BrickIntegrityError, "classifier.safetensors"),
        ("text", BrickIntegrityError, "classifier.safetensors"),
        ("pickle", UnsafeBrickError, "classifier.pt is a pickle"),
    ],
)
def test_everything_is_checked_before_anything_is_loaded(saved, what, error, text):
    spoiled(saved, what)
    other = BrickCollection(tiny_bricks())
    before = state(other)
    with pytest.raises(error, match=text):
        other.load_bricks(saved)
    assert equal(other, before)


def test_every_mismatch_is_listed(saved):
    other = BrickCollection(tiny_bricks())
    other["backbone"] = BrickTrainable(TinyBackbone(7), ["processed"], ["features"])
    other["head/classifier"] = BrickTrainable(nn.Linear(2, 2), ["features"], ["./logits"])
    with pytest.raises(BrickMismatchError) as caught:
        other.load_bricks(saved)
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {"backbone", "head/classifier"}


def test_a_folder_that_is_not_there_and_a_file_in_its_place_are_errors(collection, saved):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        collection.load_bricks(saved / "nowhere")
    with pytest.raises(NotADirectoryError):
        collection.load_bricks(saved / "backbone.safetensors")


def test_a_hash_is_computed_once_and_again_after_any_change(monkeypatch):
    counted = []
    monkeypatch.setattr(weights, "save", lambda *args, **kwargs: counted.append(1) or save(*args, **kwargs))
    module = nn.Linear(3, 2)
    before = weights.weights_sha256(module)
    assert weights.weights_sha256(module) == before
    assert len(counted) == 1
    changes = [
        partial(nn.init.ones_, module.weight),
        lambda: module.weight.data.mul_(2),
        lambda: module.load_state_dict({"weight": torch.zeros(2, 3), "bias": torch.ones(2)}),
        lambda: setattr(module.weight, "data", torch.full((2, 3), 7.0)),
        module.half,
    ]
    seen = {before}
    for change in changes:
        change()
        seen.add(weights.weights_sha256(module))
        assert weights.weights_sha256(module) == hashlib.sha256(save(module.state_dict(), {"format": "pt"})).hexdigest()
    assert len(seen) == 1 + len(changes)


@pytest.mark.parametrize("save", ["save_bricks", "save_pretrained"])
def test_both_saves_take_exist_ok_and_a_home(save, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = create_model("test_resnet_cls", num_classes=2)
    getattr(model, save)("~/deep/model", exist_ok=False)
    files = contents(tmp_path / "deep" / "model")
    assert "cls/head.safetensors" in {str(name) for name in files}
    with pytest.raises(FileExistsError, match=r"is not empty.*exist_ok=True"):
        getattr(model, save)("~/deep/model", exist_ok=False)
    (tmp_path / "deep" / "model" / "notes.txt").write_text("mine")
    getattr(model, save)("~/deep/model", exist_ok=True)
    assert (tmp_path / "deep" / "model" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    getattr(model, save)("~/empty", exist_ok=False)
    model.load_bricks("~/empty")


@pytest.mark.parametrize("source", ["~/model", "local-dir:~/model", "~/model/cls", Path("~/model")])
def test_a_source_in_the_home_of_the_user_is_found(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    create_model("test_resnet_cls", num_classes=2).save_pretrained(tmp_path / "model")
    assert "cls/head" in BrickCollection.from_pretrained(source).bricks()
    if str(source) != "~/model/cls":
        assert locate(source) == f"local-dir:{tmp_path / 'model'}"
