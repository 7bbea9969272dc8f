import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from brickyard import (
    BrickCollection,
    BrickError,
    BrickIntegrityError,
    BrickMismatchError,
    BrickModule,
    BrickNotFoundError,
    BrickTrainable,
    UnknownNameError,
    UnsafeBrickError,
    create_model,
    create_part,
)
from tests.toys import SOURCE, TinyClassifier

ZOO = SOURCE.parent / "zoo" / "tf_efficientnet_lite0_cls.in1k"


@pytest.fixture(scope="module")
def _saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "saved"
    create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(_saved, tmp_path) -> Path:
    """A folder with a saved model that the test may damage."""
    return Path(shutil.copytree(_saved, tmp_path / "saved"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("source", ["zoo", "saved"])
def test_every_file_is_what_the_manifest_says(source, saved):
    folder = ZOO if source == "zoo" else saved
    manifest = read(folder / "bricks.json")
    listed = {"bricks.json", "README.md"}
    for path, entry in manifest["bricks"].items():
        config = folder / f"{entry['at']}.json"
        weights = folder / f"{entry['at']}.safetensors"
        assert entry["config"] == hashlib.sha256(config.read_bytes()).hexdigest()
        assert weights.exists() == (entry["weights"] is not None), path
        listed.add(f"{entry['at']}.json")
        if weights.exists():
            found = {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "size": weights.stat().st_size}
            assert {"sha256": entry["weights"], "size": entry["size"]} == found == read(config)["weights"]
            listed.add(f"{entry['at']}.safetensors")
    assert set(contents(folder)) <= listed
    assert manifest["format"] == 1


@pytest.mark.parametrize("source", ["zoo", "saved"])
def test_every_brick_s_json_stands_alone(source, saved):
    folder = ZOO if source == "zoo" else saved
    for path in read(folder / "bricks.json")["bricks"]:
        config = read(folder / f"{path}.json")
        assert {"format", "kind", "type", "args", "inputs", "outputs", "tags"} <= set(config), path
        assert "." not in config["type"], "a registered name, never an import path"
    backbone, head = read(folder / "backbone.json"), read(folder / "cls" / "head.json")
    provides = backbone["provides"]
    needs = head["requires"]["backbone"]
    assert needs["sha256"] == backbone["weights"]["sha256"]
    assert {"channels": needs["channels"], "strides": needs["strides"]} == provides["features"]
    assert {"channels", "mean", "std"} <= set(provides["input"])
    assert needs["input"] == provides["input"]
    assert len(head["labels"]) == head["args"]["out_features"]


def test_the_shipped_bricks_have_a_licence():
    assert all(read(ZOO / f"{path}.json")["licence"] == "apache-2.0" for path in ("backbone", "cls/head"))


@pytest.mark.parametrize("source", ["zoo", "saved"])
def test_weights_are_canonical(source, saved):
    for file in (ZOO if source == "zoo" else saved).rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_the_same_model_is_the_same_bytes(saved, tmp_path):
    BrickCollection.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)
    BrickCollection.from_pretrained(ZOO).save_pretrained(tmp_path / "zoo", weights="in1k")
    for file in ("backbone.safetensors", "cls/head.safetensors", "backbone.json"):
        assert (tmp_path / "zoo" / file).read_bytes() == (ZOO / file).read_bytes()


def test_a_model_can_be_saved_where_it_was_loaded_from(saved):
    before = contents(saved)
    model = BrickCollection.from_pretrained(saved)
    with torch.no_grad():
        model["cls/head"].model.bias += 1
    model.save_pretrained(saved)
    changed = {name for name, content in contents(saved).items() if before[name] != content}
    assert changed == {"bricks.json", "cls/head.json", "cls/head.safetensors"}
    torch.testing.assert_close(
        BrickCollection.from_pretrained(saved)["cls/head"].model.bias, model["cls/head"].model.bias
    )


def at(value: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "bricks.json", lambda m: m["bricks"]["backbone"].update(at=value))


def named(value: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "bricks.json", lambda m: m["bricks"].update({value: m["bricks"]["backbone"]}))


def head(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "cls" / "head.json", lambda config: config.update(fields))


def without(file: str, field: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / file, lambda values: values.pop(field))


def manifest(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "bricks.json", lambda values: values.update(fields))


def resized(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "cls" / "head.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return damage


def reshaped(folder: Path) -> None:
    file = folder / "cls" / "head.safetensors"
    tensors = load_file(file)
    save_file({"weight": tensors["weight"].T.contiguous(), "bias": tensors["bias"]}, file, metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "cls" / "head.safetensors").rename(folder / "cls" / "head.pt")


DAMAGE: dict[str, tuple[Callable[[Path], Any], type[Exception]]] = {
    "weights cut short": (resized(lambda data: data[:-4]), BrickIntegrityError),
    "weights too long": (resized(lambda data: data + b"0"), BrickIntegrityError),
    "weights empty": (resized(lambda data: b""), BrickIntegrityError),
    "header damaged": (resized(lambda data: data[:9] + b"\0" + data[10:]), BrickIntegrityError),
    "weights absent": (lambda folder: (folder / "cls" / "head.safetensors").unlink(), BrickNotFoundError),
    "json absent": (lambda folder: (folder / "cls" / "head.json").unlink(), BrickNotFoundError),
    "manifest absent": (lambda folder: (folder / "bricks.json").unlink(), BrickNotFoundError),
    "only a pickle": (pickled, UnsafeBrickError),
    "transposed": (reshaped, BrickIntegrityError),
    "args of another shape": (head(args={"in_features": 96, "out_features": 5}), BrickMismatchError),
    "newer brick": (head(format=99), UnsafeBrickError),
    "newer manifest": (manifest(format=2), UnsafeBrickError),
    "format zero": (manifest(format=0), UnsafeBrickError),
    "format a string": (manifest(format="1"), UnsafeBrickError),
    "no format": (without("bricks.json", "format"), UnsafeBrickError),
    "unknown kind": (head(kind="BrickSystem"), UnsafeBrickError),
    "kind a list": (head(kind=["BrickTrainable"]), UnsafeBrickError),
    "import path as kind": (head(kind="os.system"), UnsafeBrickError),
    "unknown type": (head(type="linaer"), UnknownNameError),
    "import path as type": (head(type="torch.nn.Linear"), UnknownNameError),
    "at climbs out": (at("../saved/backbone"), UnsafeBrickError),
    "at absolute": (at("/etc/passwd"), UnsafeBrickError),
    "at empty": (at(""), UnsafeBrickError),
    "at a number": (at(3), BrickError),
    "name climbs out": (named("../backbone"), UnsafeBrickError),
    "name like another": (named("Backbone"), BrickError),
    "manifest no json": (lambda folder: (folder / "bricks.json").write_text("{"), BrickIntegrityError),
    "brick no json": (lambda folder: (folder / "backbone.json").write_bytes(b"\xff\xfe"), BrickIntegrityError),
    "brick a list": (lambda folder: (folder / "backbone.json").write_text("[1]"), UnsafeBrickError),
    "no bricks": (without("bricks.json", "bricks"), BrickError),
    "bricks a list": (manifest(bricks=[]), BrickError),
    "no type": (without("cls/head.json", "type"), BrickError),
    "no inputs": (without("cls/head.json", "inputs"), BrickError),
    "unknown argument": (head(args={"colour": "red"}), BrickError),
    "args a list": (head(args=[1]), BrickError),
    "unknown setting": (head(settings={"colour": "red"}), BrickError),
    "weights not stored": (without("cls/head.json", "weights"), BrickMismatchError),
    "weights of an int": (head(weights=3), BrickError),
    "head without labels": (without("cls/head.json", "labels"), BrickError),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused(damage, saved):
    change, error = DAMAGE[damage]
    change(saved)
    with pytest.raises(error) as caught:
        create_model(f"local-dir:{saved}")
    assert isinstance(caught.value, BrickError)
    assert len(str(caught.value)) > 20


def test_a_stored_backbone_cannot_send_timm_for_other_weights(saved, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    change = {"name": "test_resnet", "in_chans": 3, "checkpoint_path": str(tmp_path / "other.pth")}
    edit(saved / "backbone.json", lambda config: config.update(args=change))
    with pytest.raises(BrickError, match="checkpoint_path"):
        BrickCollection.from_pretrained(saved)


def test_fields_that_this_version_does_not_know_are_kept(saved, tmp_path):
    edit(saved / "backbone.json", lambda config: config.update(licence="mit", trained_on={"pictures": 12}))
    with pytest.warns(UserWarning, match=r"\['backbone'\] differ from bricks.json"):
        model = BrickCollection.from_pretrained(saved)
    model.save_pretrained(tmp_path / "again")
    again = read(tmp_path / "again" / "backbone.json")
    assert (again["licence"], again["trained_on"]) == ("mit", {"pictures": 12})


def test_a_module_that_is_no_registered_part_is_refused(saved):
    before = contents(saved)
    model = BrickCollection.from_pretrained(saved)
    model["extra"] = BrickTrainable(TinyClassifier(), ["features[-1]"], ["extra_logits"])
    with pytest.raises(UnsafeBrickError, match=r"'extra'.*register_part"):
        model.save_pretrained(saved)
    assert contents(saved) == before


def test_a_kind_of_one_s_own_is_refused(tmp_path):
    class Mine(BrickModule):
        pass

    with pytest.raises(UnsafeBrickError, match="Mine"):
        BrickCollection({"a": Mine(create_part("class_prediction"), ["x"], ["y", "z"])}).save_pretrained(tmp_path)
    assert contents(tmp_path) == {}


def test_bricks_around_no_timm_backbone_are_stored_too(tmp_path):
    bricks = {"a": {"head": BrickTrainable(create_part("linear", in_features=4, out_features=2), ["x"], ["./y"])}}
    model = BrickCollection(bricks)
    model.save_pretrained(tmp_path)
    again = create_model(f"local-dir:{tmp_path}")
    x = torch.rand(3, 4)
    torch.testing.assert_close(again({"x": x})["a/y"], nn.functional.linear(x, *model["a/head"].model.parameters()))
    assert repr(again) == repr(model)


def test_what_was_measured_goes_with_the_weights_that_it_was_measured_on(tmp_path):
    model = create_model("test_resnet_cls", num_classes=3)
    model["cls/head"].metadata |= {"source": "a training", "metrics": {"F1": 0.5}, "measured": "a command"}
    model.save_pretrained(tmp_path)
    same = BrickCollection.from_pretrained(tmp_path)
    same.save_pretrained(tmp_path)
    assert read(tmp_path / "cls" / "head.json")["metrics"] == {"F1": 0.5}
    with torch.no_grad():
        same["cls/head"].model.bias.add_(1)
    same.save_pretrained(tmp_path)
    assert not {"source", "metrics", "measured"} & read(tmp_path / "cls" / "head.json").keys()
