import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickModule,
    BrickTrainable,
    MissingExtraError,
    MissingInputError,
    Stage,
    Tag,
    create_model,
    export_bricks_as_onnx,
)
from tests.toys import tiny_bricks, tiny_inputs

HEAD_OUTPUTS = {"cls/logits", "cls/probabilities", "cls/class_prediction"}


class Fails(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            raise RuntimeError("this module cannot be exported")
        return value


class Eigenvalues(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return torch.linalg.eigvals(value).real


def run(path: Path, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    arrays = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
    return dict(zip(names, session.run(None, arrays), strict=True))


def assert_same(path: Path, collection: BrickCollection, inputs: dict[str, Tensor]) -> None:
    outputs = run(path, inputs)
    with torch.no_grad():
        expected = copy.deepcopy(collection).eval()(inputs, tags=Stage.EXPORT.tags)
    for name, array in outputs.items():
        base, _, index = name.partition(".")  # feature maps: `features.0`, `features.1`, ...
        tensor = expected[base][int(index)] if index else expected[base]
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-3, atol=1e-4)


def trained(collection: BrickCollection) -> BrickCollection:
    """Run a training step, so that statistics and metric states differ from a new model's."""
    collection.train()
    collection(tiny_inputs())
    return collection


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_model_has_the_same_outputs_in_onnx_at_every_batch_size(name, tmp_path):
    model = create_model(f"{name}_cls", num_classes=5)
    image = torch.rand(7, 3, 160, 160)
    export_bricks_as_onnx(tmp_path / "model.onnx", model, {"image": image[:1]}, dynamic_batch_size=True)
    assert set(run(tmp_path / "model.onnx", {"image": image[:1]})) >= HEAD_OUTPUTS
    for size in (1, 3, 7):
        assert_same(tmp_path / "model.onnx", model, {"image": image[:size]})
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]  # weights inside, no temporary files


@pytest.mark.slow
def test_a_collection_has_the_same_outputs_in_onnx_at_every_batch_size(collection, tmp_path):
    trained(collection)
    export_bricks_as_onnx(str(tmp_path / "model.onnx"), collection, tiny_inputs(2), dynamic_batch_size=True)
    for size in (1, 3, 7):
        assert_same(tmp_path / "model.onnx", collection, tiny_inputs(size))
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["raw"]
    assert "head/logits" in [value.name for value in graph.output]
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))


@pytest.mark.slow
def test_a_fixed_batch_size_accepts_no_other_size(collection, tmp_path):
    export_bricks_as_onnx(tmp_path / "model.onnx", collection, tiny_inputs(2), dynamic_batch_size=False)
    assert_same(tmp_path / "model.onnx", collection, tiny_inputs(2))
    with pytest.raises(Exception, match=r"[Dd]imension"):
        run(tmp_path / "model.onnx", tiny_inputs(3))


@pytest.mark.slow
def test_exporting_does_not_change_the_collection(collection, tmp_path):
    trained(collection)
    before = {key: value.clone() for key, value in collection.state_dict().items()}
    modes = {name: module.training for name, module in collection.named_modules()}
    gradients = {name: parameter.requires_grad for name, parameter in collection.named_parameters()}
    summary = collection.summarize(reset=False)
    inputs = tiny_inputs(2)
    original = inputs["raw"].clone()
    export_bricks_as_onnx(tmp_path / "model.onnx", collection, inputs, dynamic_batch_size=True)
    assert {name: module.training for name, module in collection.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in collection.named_parameters()} == gradients
    assert all(torch.equal(value, before[key]) for key, value in collection.state_dict().items())
    assert all(torch.equal(value, summary[name]) for name, value in collection.summarize(reset=False).items())
    assert torch.equal(inputs["raw"], original)


@pytest.mark.slow
def test_tags_select_the_bricks(collection, tmp_path):
    bricks = {**collection.to_dict(), "extra": BrickTrainable(nn.ReLU(), ["features"], ["more"], tags="MORE")}
    export_bricks_as_onnx(
        tmp_path / "model.onnx",
        BrickCollection(bricks),
        tiny_inputs(),
        dynamic_batch_size=True,
        tags={Tag.MODEL, "MORE"},
    )
    assert "more" in run(tmp_path / "model.onnx", tiny_inputs(3))


@pytest.mark.slow
def test_a_failed_export_does_not_replace_an_existing_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"old")
    collection = BrickCollection({"bad": BrickModule(Fails(), ["raw"], ["out"])})
    with pytest.raises(BrickGraphError, match=r"exported to ONNX: RuntimeError: this module cannot be exported$"):
        export_bricks_as_onnx(tmp_path / "model.onnx", collection, tiny_inputs(), dynamic_batch_size=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"old")]


@pytest.mark.slow
def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    collection = BrickCollection({"bad": BrickModule(Eigenvalues(), ["raw"], ["out"])})
    inputs = {"raw": torch.rand(2, 3, 3)}
    with pytest.raises(BrickGraphError, match="linalg_eig"):
        export_bricks_as_onnx(tmp_path / "model.onnx", collection, inputs, dynamic_batch_size=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_does_not_replace_an_existing_file(collection, tmp_path, monkeypatch):
    def full(self: Any, destination: Any, **kwargs: Any) -> None:
        Path(destination).write_bytes(b"half")
        raise OSError("no space left")

    (tmp_path / "model.onnx").write_bytes(b"old")
    monkeypatch.setattr("torch.onnx.ONNXProgram.save", full)
    with pytest.raises(OSError, match=r"model\.onnx was not written: no space left"):
        export_bricks_as_onnx(tmp_path / "model.onnx", collection, tiny_inputs(), dynamic_batch_size=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"old")]


def test_without_the_extra_the_error_names_it(collection, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'brickyard\[export\]'"):
        export_bricks_as_onnx(tmp_path / "model.onnx", collection, tiny_inputs(), dynamic_batch_size=True)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_input_is_named(collection, tmp_path):
    with pytest.raises(MissingInputError, match="'raw'"):
        export_bricks_as_onnx(tmp_path / "model.onnx", collection, {"image": torch.rand(1)}, dynamic_batch_size=True)


def test_an_output_that_is_not_a_tensor_is_refused(tmp_path):
    collection = BrickCollection({"text": BrickModule(lambda value: "words", ["raw"], ["words"])})
    with pytest.raises(BrickInputError, match="words"):
        export_bricks_as_onnx(tmp_path / "model.onnx", collection, tiny_inputs(), dynamic_batch_size=True)


def test_the_tiny_collection_has_bricks_that_are_not_exported():
    not_exported = [
        path for path, brick in BrickCollection(tiny_bricks()).bricks().items() if not brick.tags & Stage.EXPORT.tags
    ]
    assert not_exported == ["head/loss", "head/metrics"]
