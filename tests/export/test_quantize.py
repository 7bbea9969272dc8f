"""`quantize_onnx(bricks=...)` quantises some bricks of a file or of a deployed folder."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from brickyard import (
    BrickInputError,
    BrickMismatchError,
    UnknownNameError,
    create_model,
    export_onnx,
    quantize_onnx,
)
from brickyard.export.deployment import open_onnx
from brickyard.export.onnx_runner import OnnxSession

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a whole model, and a folder with its parts."""
    folder = tmp_path_factory.mktemp("float")
    torch.manual_seed(0)
    model = create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 4}).eval()
    export_onnx(model, folder / "model.onnx", image_size=SIZE, check=False)
    export_onnx(model, folder / "parts", split=True, image_size=SIZE, check=False)
    return folder


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random((4, 3, SIZE, SIZE), np.float32) for _ in range(2)]


def quantised(file: Path) -> dict[str, bool]:
    """Whether each convolution and matrix product reads int8 weights, by its name."""
    graph = onnx.load(file).graph
    writers = {name: node.op_type for node in graph.node for name in node.output}
    nodes = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return {node.name: writers.get(node.input[1]) == "DequantizeLinear" for node in nodes}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bricks", "chosen"),
    [
        (None, ("backbone/", "cls/", "seg/")),
        (["backbone"], ("backbone/",)),
        (["cls", "seg/head"], ("cls/", "seg/")),
    ],
)
def test_only_the_named_bricks_are_quantised(bricks, chosen, folder, images, tmp_path):
    quantize_onnx(folder / "model.onnx", tmp_path / "int8.onnx", images, bricks=bricks)
    found = quantised(tmp_path / "int8.onnx")
    assert {name.split("/")[0] for name in found} == {"backbone", "cls", "seg"}
    assert found == {name: name.startswith(chosen) for name in found}
    assert OnnxSession(tmp_path / "int8.onnx").metadata == OnnxSession(folder / "model.onnx").metadata


@pytest.mark.slow
def test_a_head_in_float_is_exact_on_the_features_of_an_int8_backbone(folder, images, tmp_path):
    quantize_onnx(folder / "parts", tmp_path / "parts", images, bricks=["backbone"])
    for head in ("cls.onnx", "seg.onnx"):
        assert (tmp_path / "parts" / head).read_bytes() == (folder / "parts" / head).read_bytes()
    assert all(quantised(tmp_path / "parts" / "backbone.onnx").values())
    quantize_onnx(folder / "model.onnx", tmp_path / "int8.onnx", images, bricks=["backbone"])
    sizes = [(path / "backbone.onnx").stat().st_size for path in (tmp_path / "parts", folder / "parts")]
    assert sizes[0] < 0.6 * sizes[1]
    batch = {"image": images[0]}
    parts, whole = open_onnx(tmp_path / "parts")(batch), OnnxSession(tmp_path / "int8.onnx")(batch)
    exact = OnnxSession(folder / "model.onnx")(batch)
    for name in ("cls/probabilities", "seg/logits"):
        scale = np.abs(exact[name]).max()
        assert 0 < np.abs(parts[name] - exact[name]).max() < 0.2 * scale
        np.testing.assert_allclose(parts[name], whole[name], atol=0.05 * scale)


@pytest.mark.slow
def test_every_part_of_a_folder_is_quantised_and_replaced_only_with_overwrite(folder, images, tmp_path):
    quantize_onnx(folder / "parts", tmp_path / "parts", images)
    for part in ("backbone.onnx", "cls.onnx", "seg.onnx"):
        assert all(quantised(tmp_path / "parts" / part).values())
    exact, found = (open_onnx(path / "parts")({"image": images[0]}) for path in (folder, tmp_path))
    assert np.abs(exact["cls/probabilities"] - found["cls/probabilities"]).max() < 0.1
    with pytest.raises(FileExistsError, match="overwrite"):
        quantize_onnx(folder / "parts", tmp_path / "parts", images)
    quantize_onnx(folder / "parts", tmp_path / "parts", images, bricks=["cls"], overwrite=True)
    assert not any(quantised(tmp_path / "parts" / "backbone.onnx").values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bricks", "error", "message"),
    [
        (["backbones"], UnknownNameError, "Unknown brick 'backbones'. Did you mean 'backbone'"),
        (["seg/resize"], UnknownNameError, "seg/head"),
        ([], BrickInputError, "bricks: expected one or more of"),
    ],
)
def test_unknown_bricks_are_refused_before_the_calibration(bricks, error, message, folder, tmp_path):
    for source in ("model.onnx", "parts"):
        with pytest.raises(error, match=message):
            quantize_onnx(folder / source, tmp_path / "int8.onnx", [np.zeros(1)], bricks=bricks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_whose_nodes_have_no_bricks_is_quantised_as_a_whole_only(folder, images, tmp_path):
    stored = onnx.load(folder / "model.onnx")
    for node in stored.graph.node:
        node.name = node.name.rpartition("/")[2]
    onnx.save(stored, tmp_path / "old.onnx")
    with pytest.raises(BrickMismatchError, match="Export the model again"):
        quantize_onnx(tmp_path / "old.onnx", tmp_path / "int8.onnx", images, bricks=["backbone"])
    quantize_onnx(tmp_path / "old.onnx", tmp_path / "int8.onnx", images)
    assert all(quantised(tmp_path / "int8.onnx").values())
