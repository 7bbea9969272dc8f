"""Locks: a model as nothing but pinned references."""

import json

import pytest
import timm
import torch
from huggingface_hub.errors import RevisionNotFoundError

from brickyard import (
    BrickCollection,
    BrickError,
    BrickInputError,
    BrickIntegrityError,
    UnsafeBrickError,
    create_model,
)
from brickyard.storage.lock import lock_source

REPO = "owner/model"
IMAGE = {"image": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))}


def logits(model):
    with torch.no_grad():
        return model.eval()(IMAGE, outputs="cls/logits")["cls/logits"]


@pytest.fixture
def published(hub):
    model = create_model("test_resnet_cls", labels=["a", "b", "c"])
    model.push_to_hub(REPO)
    return model


def test_a_lock_builds_the_model_whatever_happened_to_the_repo_since(published, hub, tmp_path):
    values = published.lock(tmp_path / "model.lock.json")
    assert json.loads((tmp_path / "model.lock.json").read_text()) == values
    commit = hub.commits(REPO)[0].oid
    assert {entry["at"] for entry in values["bricks"].values()} == {
        f"hf://{REPO}@{commit}/{path}" for path in published.bricks()
    }
    expected = logits(published)
    with torch.no_grad():
        published["cls/head"].model.bias += 1
    published.push_to_hub(REPO)
    for source in (values, tmp_path / "model.lock.json", str(tmp_path / "model.lock.json")):
        assert torch.equal(logits(BrickCollection.from_pretrained(source)), expected)


def test_what_has_no_weights_may_stand_in_the_lock_itself(published, hub):
    published.swap("cls", create_model("test_resnet_cls", labels=["x", "y"])["cls"])
    published.push_to_hub(REPO, bricks="cls/head")
    values = published.lock()
    assert "brick" in values["bricks"]["cls/loss"]
    assert torch.equal(logits(BrickCollection.from_pretrained(values)), logits(published))
    values["bricks"]["cls/loss"]["brick"]["args"] = {"changed": 1}
    with pytest.raises(BrickIntegrityError):
        BrickCollection.from_pretrained(values)


def test_a_lock_is_of_published_bricks_only(published):
    with torch.no_grad():
        published["cls/head"].model.bias += 1
    with pytest.raises(BrickInputError, match="cls/head"):
        published.lock()
    with pytest.raises(BrickInputError, match="backbone"):
        create_model("test_resnet_cls", num_classes=2).lock()


def test_a_lock_of_a_zoo_model_refers_to_the_zoo(tmp_path, monkeypatch):
    model = create_model("test_resnet_cls", labels=["a", "b"])
    model.save_pretrained(tmp_path / "test_resnet_cls.mine", weights="mine")
    monkeypatch.setenv("BRICKYARD_ZOO", str(tmp_path))
    values = create_model("test_resnet_cls.mine", pretrained=True).lock()
    assert values["bricks"]["backbone"]["at"] == "zoo://test_resnet_cls.mine/backbone"
    assert torch.equal(logits(BrickCollection.from_pretrained(values)), logits(model))


@pytest.mark.parametrize(
    "change",
    [
        {"at": "backbone"},
        {"at": "../backbone"},
        {"at": "hf://owner/model@main/backbone"},
        {"at": f"hf://owner/model@{'0' * 40}/backbone"},
        {"config": "0" * 64},
        {"weights": "0" * 64},
        {"weights": None},
        {"size": -1},
        {"brick": 3},
    ],
    ids=str,
)
def test_a_damaged_lock_is_refused(change, published, hub):
    values = published.lock()
    values["bricks"]["backbone"] |= change
    expected = RevisionNotFoundError if "0" * 40 in str(change.get("at")) else BrickError
    with pytest.raises(expected):
        BrickCollection.from_pretrained(values)


def test_a_lock_that_is_too_large_or_cut_short_is_refused(tmp_path):
    (tmp_path / "large.json").write_bytes(b" " * 9_000_000)
    with pytest.raises(UnsafeBrickError, match="expected at most 8000000"):
        BrickCollection.from_pretrained(tmp_path / "large.json")
    (tmp_path / "cut.json").write_text('{"format": 1, "bri')
    with pytest.raises(BrickIntegrityError, match="is not JSON"):
        BrickCollection.from_pretrained(tmp_path / "cut.json")


def test_a_stored_model_is_locked_from_its_manifest_alone(published, hub, tmp_path):
    with hub.recording() as seen:
        values = lock_source(f"hf://{REPO}", tmp_path / "model.lock.json")
    assert [request.path.rpartition("/")[2] for request in seen] == ["bricks.json"]
    assert values == published.lock() == json.loads((tmp_path / "model.lock.json").read_text())
    assert lock_source(tmp_path / "model.lock.json") == values
    BrickCollection.from_pretrained(f"hf://{REPO}").save_pretrained(tmp_path / "model", refer="backbone")
    with pytest.raises(BrickInputError, match=r"cls/head.*Push the model first"):
        lock_source(tmp_path / "model")
    BrickCollection.from_pretrained(f"hf://{REPO}").save_pretrained(tmp_path / "all", refer=["backbone", "cls/head"])
    mixed = lock_source(tmp_path / "all")
    assert mixed["bricks"]["backbone"] == values["bricks"]["backbone"]
    assert "brick" in mixed["bricks"]["preprocessor"]
    assert torch.equal(logits(BrickCollection.from_pretrained(mixed)), logits(published))
    with pytest.raises(BrickInputError, match="a whole model"):
        lock_source(f"hf://{REPO}/cls")


def test_a_model_of_timm_s_is_locked_with_the_hashes_of_its_weights(hub, tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path / "timm", safe_serialization=True)
    hub.put("timm/resnet", {file.name: file.read_bytes() for file in (tmp_path / "timm").iterdir()})
    assert lock_source("hf://timm/resnet") == BrickCollection.from_pretrained("hf://timm/resnet").lock()
