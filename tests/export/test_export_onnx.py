"""`export_onnx` writes a file that onnxruntime runs without brickyard, with metadata."""

import copy
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickMismatchError,
    BrickNotFoundError,
    BrickTrainable,
    MissingExtraError,
    Predictor,
    Stage,
    create_model,
    export_onnx,
    quantize_onnx,
)
from brickyard.export.onnx_runner import OnnxSession
from tests.toys import SOURCE

SAMPLES = SOURCE / "brickyard" / "samples"
HEADS = {"cls/logits", "cls/probabilities", "cls/class_prediction", "seg/logits", "seg/class_prediction"}
SCRIPT = """
import sys, numpy, onnxruntime
assert "torch" not in sys.modules and "brickyard" not in sys.modules
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = numpy.load(sys.argv[2])
outputs = session.run(None, {session.get_inputs()[0].name: image})
numpy.savez(sys.argv[3], **{o.name.replace("/", "__"): v for o, v in zip(session.get_outputs(), outputs)})
"""


def detecting_model() -> BrickCollection:
    """Build a model with three heads, whose untrained detector has detections."""
    torch.manual_seed(1)
    numbers = {"cls": 3, "seg": 4, "det": 5}
    model = create_model("test_resnet_cls_seg_det", num_classes=numbers, labels={"cls": ["cat", "dog", "fox"]})
    with torch.no_grad():
        for name, parameter in model["det/head"].named_parameters():
            if parameter.ndim == 1 and "classification" in name and name.endswith("cls_logits.bias"):
                parameter.zero_()
        for layer in model["det/head"].modules():
            if isinstance(layer, nn.Conv2d) and layer.out_channels == 5:
                layer.weight.normal_(std=0.05)
                nn.init.zeros_(layer.bias)
    model(  # updates the running statistics
        {"image": torch.rand(4, 3, 64, 64)}, tags=Stage.INFERENCE.tags
    )
    return model


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    return detecting_model()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    export_onnx(model, path, image_size=64)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_onnxruntime_without_brickyard_has_the_outputs_of_torch(batch, model, file, tmp_path):
    image = torch.rand(batch, 3, 64, 64)
    np.save(tmp_path / "image.npy", image.numpy())
    command = [sys.executable, "-c", SCRIPT, str(file), str(tmp_path / "image.npy"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True)
    outputs = {name.replace("__", "/"): array for name, array in np.load(tmp_path / "out.npz").items()}
    assert set(outputs) == HEADS | {"det/boxes", "det/scores", "det/labels"}
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()({"image": image}, outputs=sorted(outputs))
    for name in HEADS:
        np.testing.assert_allclose(outputs[name], expected[name].numpy(), rtol=1e-4, atol=1e-4)
    assert (expected["det/scores"] > 0).any(), "there must be detections to compare"
    np.testing.assert_allclose(outputs["det/scores"], expected["det/scores"].numpy(), atol=1e-4)
    for row in range(batch):
        boxes = {tuple(np.round(box)) for box in expected["det/boxes"][row].numpy()}
        assert len(boxes ^ {tuple(np.round(box)) for box in outputs["det/boxes"][row]}) <= 0.05 * len(boxes) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_vit_relpos_cls-attention", 160),  # attention with a bias
        ("test_convnext_kpt_emb_depth-unet", 64),
        ("tf_mobilenetv3_small_minimal_100_cls-multilabel_seg-lraspp", 64),  # SAME padding
    ],
)
def test_other_tasks_and_backbones_have_the_same_outputs_in_onnx(name, size, tmp_path):
    model = create_model(name, num_classes={"kpt": 4} if "kpt" in name else {})
    export_onnx(model, tmp_path / "model.onnx", image_size=size)
    session = OnnxSession(tmp_path / "model.onnx")
    image = torch.rand(7, 3, size, size)
    with torch.no_grad():
        expected = model.eval()({"image": image}, outputs=session.outputs)
    for output, array in session({"image": image.numpy()}).items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected[output].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_opset_that_torch_cannot_write_is_refused(tmp_path):
    with pytest.raises(BrickInputError, match="opset: expected an opset that torch can write"):
        export_onnx(create_model("test_resnet_cls"), tmp_path / "model.onnx", image_size=64, opset=99)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_file_has_metadata(model, file):
    stored = onnx.load(file)
    onnx.checker.check_model(stored)
    entries = [entry for entry in stored.metadata_props if entry.key.startswith("brickyard.")]
    metadata = {entry.key: json.loads(entry.value) for entry in entries}
    assert metadata["brickyard.collection"] == "test_resnet_cls_seg_det"
    assert metadata["brickyard.heads"]["cls"]["labels"] == ["cat", "dog", "fox"]
    assert {head: metadata["brickyard.heads"][head]["task"] for head in ("seg", "det")} == {"seg": "seg", "det": "det"}
    assert metadata["brickyard.image"]["size"] == [64, 64]
    image = metadata["brickyard.image"]
    assert (image["layout"], image["order"], image["range"], image["resize_mode"]) == ("NCHW", "RGB", [0, 1], "squash")
    assert not {"mean", "std"} & set(image)  # normalization is inside
    assert set(image["normalized_inside"]) == {"mean", "std"}
    weights = save(model["cls/head"].model.state_dict(), metadata={"format": "pt"})
    assert metadata["brickyard.bricks"]["cls/head"] == hashlib.sha256(weights).hexdigest()
    assert set(metadata["brickyard.bricks"]) == {"backbone", "cls/head", "seg/head", "det/head"}


@pytest.mark.slow
def test_there_is_one_file_without_paths_of_this_machine(file):
    assert [entry.name for entry in file.parent.iterdir()] == ["model.onnx"]
    assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()
    assert all(not node.metadata_props for node in onnx.load(file).graph.node)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(file).graph.node}, "batch norm is folded"


@pytest.mark.slow
def test_a_predictor_of_the_file_has_the_results_of_the_model(model, file):
    stored = copy.deepcopy(model)
    provides = stored["backbone"].provides
    stored["backbone"].provides = replace(provides, input=replace(provides.input, size=(64, 64)))
    of_model = [*Predictor(stored).predict(SAMPLES, draw=True)]
    of_file = [*Predictor(file).predict(SAMPLES, draw=True)]
    for expected, actual in zip(of_model, of_file, strict=True):
        assert [row["label"] for row in actual.results["cls"]] == [row["label"] for row in expected.results["cls"]]
        for head in ("seg", "det"):
            assert len(actual.results[head]) == pytest.approx(len(expected.results[head]), abs=2)
        assert isinstance(actual.visualization, Image.Image)
        difference = np.abs(np.asarray(actual.visualization, int) - np.asarray(expected.visualization, int))
        assert difference.mean() < 2


@pytest.mark.slow
def test_int8_keeps_the_metadata_and_nearly_the_outputs(file, tmp_path):
    predictor = Predictor(file)
    images = predictor.read(predictor.find([SAMPLES]))
    quantize_onnx(file, tmp_path / "int8.onnx", [images])
    small = Predictor(tmp_path / "int8.onnx")
    assert OnnxSession(tmp_path / "int8.onnx").metadata == OnnxSession(file).metadata
    assert (tmp_path / "int8.onnx").stat().st_size < 0.6 * file.stat().st_size
    expected, quantised = predictor({"image": images}), small({"image": images})
    assert np.abs(expected["cls/probabilities"] - quantised["cls/probabilities"]).max() < 0.1
    with pytest.raises(FileExistsError, match="overwrite"):
        quantize_onnx(file, tmp_path / "int8.onnx", [images])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "one calibration batch or more"),
        ([np.zeros((2, 64, 64, 3), np.float32)], "the shape"),
        ([np.full((2, 3, 64, 64), 200, np.float32)], "200"),
        ([np.zeros((1, 3, 32, 32), np.float32)], "64"),
        ([np.zeros((2, 3, 64, 64), np.float32), np.zeros((2, 3, 64, 48), np.float32)], r"found \(2, 3, 64, 48\)"),
    ],
)
def test_an_invalid_calibration_set_is_refused_and_nothing_is_written(images, message, file, tmp_path):
    with pytest.raises(BrickInputError, match=message):
        quantize_onnx(file, tmp_path / "int8.onnx", images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_height_and_width_may_be_dynamic(tmp_path):
    model = create_model("test_resnet_seg", num_classes=3)
    export_onnx(model, tmp_path / "model.onnx", dynamic=("batch", "height", "width"), outputs=["seg/logits"])
    session = OnnxSession(tmp_path / "model.onnx")
    assert (session.metadata.image.size, session.metadata.image.fixed) == ((160, 160), False)  # the backbone's size
    for shape in ((1, 3, 96, 160), (2, 3, 200, 64)):
        image = torch.rand(*shape)
        with torch.no_grad():
            expected = copy.deepcopy(model).eval()({"image": image}, outputs=["seg/logits"])["seg/logits"]
        outputs = session({"image": image.numpy()})
        assert list(outputs) == ["seg/logits"]
        np.testing.assert_allclose(outputs["seg/logits"], expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_only_dynamic_axes_accept_other_sizes(tmp_path):
    model = create_model("test_resnet_cls", num_classes=3)
    export_onnx(model, tmp_path / "model.onnx", dynamic=("batch", "height"), image_size=(320, 128))
    session = OnnxSession(tmp_path / "model.onnx")
    assert session({"image": np.zeros((1, 3, 192, 128), np.float32)})["cls/logits"].shape == (1, 3)
    with pytest.raises(BrickInputError, match="128"):
        session({"image": np.zeros((1, 3, 320, 256), np.float32)})


@pytest.mark.slow
def test_a_file_with_different_outputs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("brickyard.export.parity.differences", lambda *sides: ["'cls/logits': values differ"])
    with pytest.raises(BrickMismatchError, match="values differ"):
        export_onnx(create_model("test_resnet_cls"), tmp_path / "model.onnx", image_size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic": ("batch", "depth")}, "depth"),
        ({"outputs": ["cls/nonsense"]}, "cls/nonsense"),
        ({"image_size": 0}, "image_size"),
    ],
)
def test_arguments_are_checked_before_the_export(options, message, tmp_path):
    with pytest.raises((BrickInputError, BrickGraphError), match=message):
        export_onnx(create_model("test_resnet_cls"), tmp_path / "model.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_with_a_fixed_size_has_no_dynamic_height(tmp_path):
    with pytest.raises(BrickInputError, match="dynamic_img_size"):
        export_onnx(create_model("test_vit_cls"), tmp_path / "model.onnx", dynamic=("batch", "height"))


def test_an_existing_file_is_not_replaced_without_overwrite(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"existing")
    with pytest.raises(FileExistsError, match="overwrite"):
        export_onnx(create_model("test_resnet_cls"), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"existing"


def test_a_collection_without_a_backbone_needs_an_example_batch(tmp_path):
    collection = BrickCollection({"relu": BrickTrainable(nn.ReLU(), ["image"], ["out"])})
    with pytest.raises(BrickInputError, match="export_bricks_as_onnx"):
        export_onnx(collection, tmp_path / "model.onnx")


def test_a_file_of_another_exporter_is_refused(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets), tmp_path / "foreign.onnx")
    with pytest.raises(BrickMismatchError, match="not exported by brickyard"):
        Predictor(tmp_path / "foreign.onnx")
    with pytest.raises(BrickNotFoundError, match=r"no\.onnx"):
        Predictor(tmp_path / "no.onnx")
    with pytest.raises(BrickInputError, match="without outputs=, channels_last="):
        Predictor(tmp_path / "foreign.onnx", compile=True)
    with pytest.raises(BrickInputError, match=r"for an exported file, one of .*'cpu'.*found 'abacus'"):
        Predictor(tmp_path / "foreign.onnx", device="abacus")


def test_without_onnxruntime_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"brickyard\[export\]"):
        Predictor(tmp_path / "model.onnx")


def test_quantising_without_the_extra_names_it(tmp_path, monkeypatch):
    for module in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "brickyard.export.quantize", raising=False)
    quantize = import_module("brickyard.export.quantize").quantize_onnx
    with pytest.raises(MissingExtraError, match=r"Quantising .*brickyard\[export\]"):
        quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", [])
