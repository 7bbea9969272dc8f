"""`brickyard pull`, `push`, `swap`, `inspect`, `lock` and `verify`, against a Hub on loopback."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from brickyard import BrickCollection, create_model
from brickyard.cli.main import main

REPO = "user/model"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeeded(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path) -> Path:
    create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 4}).save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def other(folder, tmp_path) -> Path:
    """A model on the same backbone with another segmentation head."""
    model = create_model("test_resnet_seg", num_classes=7, bricks={"backbone": str(folder / "backbone")})
    model.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def outputs(source: object, name: str) -> torch.Tensor:
    with torch.no_grad():
        return BrickCollection.from_pretrained(source).eval()({"image": torch.ones(1, 3, 64, 64) / 2}, outputs=[name])[
            name
        ]


def test_what_is_pushed_can_be_pulled(hub, folder, tmp_path):
    assert hub.endpoint in succeeded("push", folder, REPO)
    assert "13 bricks" in succeeded("pull", f"hf://{REPO}", tmp_path / "again")
    assert torch.equal(outputs(tmp_path / "again", "seg/logits"), outputs(folder, "seg/logits"))


def test_one_brick_is_pushed_and_pulled_alone(hub, folder, tmp_path):
    succeeded("push", folder, REPO, "--brick", "cls", "--message", "only the classifier")
    assert "backbone.safetensors" not in hub.files(REPO)
    assert hub.commits(REPO)[0].title == "only the classifier"
    succeeded("pull", f"hf://{REPO}", tmp_path / "head", "--brick", "cls/head")
    assert [file.name for file in (tmp_path / "head" / "cls").iterdir()].sort() == [
        "head.json",
        "head.safetensors",
    ].sort()
    assert not (tmp_path / "head" / "backbone.json").exists()


def test_a_reference_moves_no_backbone(hub, folder, other):
    succeeded("push", folder, REPO)
    succeeded("push", other, "user/other", "--refer", f"backbone=hf://{REPO}/backbone")
    assert "backbone.safetensors" not in hub.files("user/other")
    assert torch.equal(outputs("hf://user/other", "seg/logits"), outputs(other, "seg/logits"))


def test_swap_changes_the_folder(hub, folder, other):
    succeeded("push", other, "user/other")
    succeeded("swap", folder, "seg", "hf://user/other/seg")
    assert torch.equal(outputs(folder, "seg/logits"), outputs(other, "seg/logits"))
    assert json.loads((folder / "seg" / "metrics.json").read_text())["args"]["labels"] == [str(k) for k in range(7)]


def test_a_head_that_does_not_fit_is_refused_and_the_folder_stays(folder, tmp_path):
    create_model("test_resnet_seg", num_classes=2).save_pretrained(tmp_path / "foreign")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    result = run("swap", folder, "seg", tmp_path / "foreign")
    assert result.exit_code == 1
    assert "weights of the backbone" in result.output
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    with pytest.warns(UserWarning, match="Stale: seg/head"):
        succeeded("swap", folder, "seg", tmp_path / "foreign", "--check", "shape")


def test_inspect_shows_a_head_and_whether_it_fits(folder, tmp_path):
    shown = succeeded("inspect", folder / "seg", "--model", f"local-dir:{folder}")
    stored = json.loads((folder / "seg" / "head.json").read_text())
    assert stored["weights"]["sha256"] in shown
    assert "segmentation_fpn" in shown
    assert shown.rstrip().endswith(f"fits local-dir:{folder}")
    create_model("test_resnet_cls", num_classes=2).save_pretrained(tmp_path / "foreign")
    refused = run("inspect", folder / "seg", "--model", f"local-dir:{tmp_path / 'foreign'}")
    assert refused.exit_code == 1
    assert "weights of the backbone" in refused.output


def test_a_lock_pins_what_was_pushed(hub, folder, tmp_path):
    result = run("lock", folder)
    assert result.exit_code == 1
    assert "Push the model first" in result.output
    succeeded("push", folder, REPO)
    succeeded("lock", f"hf://{REPO}", "--out", tmp_path / "model.lock.json")
    pinned = json.loads((tmp_path / "model.lock.json").read_text())["bricks"]
    assert pinned["backbone"]["at"] == f"hf://{REPO}@{hub.commits(REPO)[0].oid}/backbone"
    succeeded("pull", tmp_path / "model.lock.json", tmp_path / "again")
    assert torch.equal(outputs(tmp_path / "again", "seg/logits"), outputs(folder, "seg/logits"))


def test_verify_detects_a_flipped_byte(folder):
    assert succeeded("verify", folder) == "13 bricks, 0 problems\n"
    file = folder / "seg" / "head.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = run("verify", folder)
    assert result.exit_code == 1
    assert "seg/head" in result.output
    assert "1 problems" in result.output


@pytest.mark.parametrize("command", ["pull", "push", "swap", "inspect", "lock", "verify"])
def test_every_command_has_help_and_its_error_is_one_line(command, tmp_path):
    assert "Usage:" in succeeded(command, "--help")
    arguments = {
        "pull": ["nowhere/at/all", tmp_path / "x"],
        "push": ["nowhere", "user/x"],
        "swap": ["nowhere", "a", "b"],
    }
    result = run(command, *arguments.get(command, ["nowhere/at/all"]))
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
