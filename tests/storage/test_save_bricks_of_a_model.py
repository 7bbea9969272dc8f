"""A save of some of the bricks of a model, beside the others in its folder."""

import json
import warnings

import pytest
import torch

from brickyard import BrickCollection, BrickMismatchError, BrickNotFoundError, BrickTrainable, create_model, create_part
from tests.storage.test_save_load_killed import killed_at


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and ".brickyard" not in file.relative_to(folder).parts[0]
    }


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "model"
    create_model("test_resnet_cls_det-ssdlite", num_classes={"cls": 3, "det": 2}).save_pretrained(folder)
    # Written by hand: the same values in another layout, which the manifest of this version does not know.
    file = folder / "cls" / "visualization.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=8))
    return folder


def loaded_from(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the file by hand
        return BrickCollection.from_pretrained(folder)


def with_new_head(folder):
    model = loaded_from(folder)
    model["seg"] = create_model("test_resnet_seg-lraspp", num_classes=4)["seg"]
    return model


def test_only_the_files_of_the_new_bricks_are_added(folder):
    before = contents(folder)
    model = with_new_head(folder)
    model.save_pretrained(folder, bricks="seg")
    after = contents(folder)
    added = {name for name in after if name.startswith("seg/")}
    assert {"seg/head.json", "seg/head.safetensors", "seg/loss.json"} < added
    assert {name: content for name, content in after.items() if name not in added | {"bricks.json"}} == {
        name: content for name, content in before.items() if name != "bricks.json"
    }
    old, new = (json.loads(each["bricks.json"]) for each in (before, after))
    assert new["collection"] == "test_resnet_cls_det-ssdlite_seg-lraspp"
    assert list(new["bricks"])[: len(old["bricks"])] == list(old["bricks"])
    assert all(new["bricks"][path] == entry for path, entry in old["bricks"].items())
    loaded = loaded_from(folder).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def test_bricks_for_another_backbone_are_refused_and_nothing_is_written(folder):
    model = with_new_head(folder)
    other = loaded_from(folder)
    with torch.no_grad():
        next(other["backbone"].parameters()).add_(1)
    with pytest.warns(UserWarning, match="Stale"):
        other.save_pretrained(folder)
    before = contents(folder)
    with pytest.raises(BrickMismatchError, match=r"'seg/head' was trained on the weights [0-9a-f]{64}, found"):
        model.save_pretrained(folder, bricks="seg")
    assert contents(folder) == before


def test_a_folder_without_a_model_and_unknown_bricks_are_refused(folder, tmp_path):
    model = with_new_head(folder)
    with pytest.raises(BrickNotFoundError, match=r"bricks\.json"):
        model.save_pretrained(tmp_path / "none", bricks="seg")
    with pytest.raises(BrickNotFoundError, match="depth"):
        model.save_pretrained(folder, bricks=["depth"])


def test_a_save_that_is_killed_leaves_the_old_model_or_the_new_one(tmp_path):
    def linear(reads, writes):
        return BrickTrainable(create_part("linear", in_features=4, out_features=4), [reads], [writes])

    folder = tmp_path / "model"
    model = BrickCollection({"backbone": linear("image", "features"), "a": linear("features", "a")})
    model.save_pretrained(folder)
    before = contents(folder)
    model["b"] = linear("features", "b")
    found = []
    while killed_at(len(found), folder, lambda: model.save_pretrained(folder, bricks="b")):
        found.append("b" in BrickCollection.from_pretrained(folder))
    assert "b" in BrickCollection.from_pretrained(folder)
    assert set(found) == {False, True}
    after = contents(folder)
    assert all(after[name] == content for name, content in before.items() if name != "bricks.json")
