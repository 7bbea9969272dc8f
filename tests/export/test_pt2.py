"""`export_pt2` and `export_aoti`."""

import copy
import json

import pytest
import torch

from brickyard import BrickInputError, create_model, export_aoti, export_pt2
from brickyard.core.private_names import aoti_load_package
from brickyard.export.pt2 import METADATA_FILE


@pytest.fixture(scope="module")
def model():
    return create_model("test_resnet_cls_det", num_classes={"cls": 3, "det": 2})


@pytest.mark.slow
def test_the_loaded_program_has_the_outputs_of_the_model(model, tmp_path):
    export_pt2(model, tmp_path / "model.pt2", image_size=64, outputs=["cls/logits", "det/boxes"])
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    extra = {METADATA_FILE: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    metadata = json.loads(extra[METADATA_FILE])
    assert json.loads(metadata["brickyard.outputs"]) == ["cls/logits", "det/boxes"]
    assert json.loads(metadata["brickyard.heads"])["det"]["task"] == "det"
    for batch in (1, 5):
        image = torch.rand(batch, 3, 64, 64)
        with torch.no_grad():
            logits, boxes = program({"image": image})
            expected = copy.deepcopy(model).eval()({"image": image}, outputs=["cls/logits", "det/boxes"])
        torch.testing.assert_close(logits, expected["cls/logits"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(boxes, expected["det/boxes"], rtol=1e-4, atol=1e-2)


@pytest.mark.slow
def test_the_compiled_package_has_the_outputs_of_the_model(tmp_path):
    model = create_model("test_resnet_cls", num_classes=3)
    export_aoti(model, tmp_path / "model.pt2", image_size=32, outputs=["cls/logits"])
    run = aoti_load_package(tmp_path / "model.pt2")
    image = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()({"image": image}, outputs=["cls/logits"])["cls/logits"]
    torch.testing.assert_close(run({"image": image})[0], expected, rtol=1e-4, atol=1e-4)


def test_an_existing_file_is_not_replaced(model, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"mine")
    for export in (export_pt2, export_aoti):
        with pytest.raises(FileExistsError, match="overwrite"):
            export(model, tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").read_bytes() == b"mine"


def test_without_a_compiler_the_error_says_so(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BrickInputError, match="compiler"):
        export_aoti(model, tmp_path / "model.pt2")
