"""Saves that fail: before they count they change nothing, and after that they count whole."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from brickyard import BrickCollection, create_model
from tests.storage.test_save_load_damaged import contents


@pytest.fixture
def saved(tmp_path) -> Path:
    create_model("test_resnet_cls", labels=["a", "b", "c"]).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize(
    "failing", ["brickyard.storage.write.write_weights", "brickyard.storage.write.manifest_text", "pathlib.Path.rename"]
)
def test_a_save_that_fails_leaves_the_folder_as_it_was(failing, saved, monkeypatch):
    before = contents(saved)
    model = BrickCollection.from_pretrained(saved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="no space left"):
        model.save_pretrained(saved)
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_what_fails_after_all_is_written_is_finished_by_the_next_save(saved, monkeypatch):
    model = BrickCollection.from_pretrained(saved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    calls = []
    original = os.replace

    def fail_at_third(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError("no space left")
        original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail_at_third)
        with pytest.raises(OSError, match="no space left"):
            model.save_pretrained(saved)
    again = BrickCollection.from_pretrained(saved)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    again.save_pretrained(saved)
    assert not (saved / ".brickyard").exists()
    assert model_bytes(saved) == model_bytes(save(model, saved.parent / "elsewhere"))


def save(model: BrickCollection, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def model_bytes(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name.endswith(".safetensors")}
