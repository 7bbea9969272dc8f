"""Tuples of tensors as inputs and outputs of an export: the feature maps between a backbone and a head."""

import numpy as np
import onnxruntime
import pytest
import torch

from brickyard import BrickCollection, BrickInputError, Stage, create_model, export_bricks_as_onnx, export_onnx


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    return create_model("test_resnet_seg", num_classes=3).eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tuple, list])
def test_a_head_is_exported_alone(kind, model, tmp_path):
    batch = {"image": torch.rand(3, 3, 64, 64)}
    values = model(batch, tags=Stage.EXPORT.tags)
    head = model.sub_collection(outputs=["seg/coarse"], tags=Stage.EXPORT.tags)
    head = BrickCollection({path: brick for path, brick in head.bricks().items() if path.startswith("seg/")})
    first = {"features": kind(value[:1] for value in values["features"])}
    export_bricks_as_onnx(tmp_path / "head.onnx", head, first, dynamic_batch_size=True)
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    features = {f"features.{index}": value.detach().numpy() for index, value in enumerate(values["features"])}
    read = [value.name for value in session.get_inputs()]
    assert set(read) <= set(features)
    outputs = session.run(["seg/coarse"], {name: features[name] for name in read})
    np.testing.assert_allclose(outputs[0], values["seg/coarse"].detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("value", [3, None, (torch.rand(1, 3), "a"), {"a": torch.rand(1)}])
def test_other_inputs_are_an_error_that_names_them(value, model, tmp_path):
    with pytest.raises(BrickInputError, match=r"the input 'image': expected a tensor, or a tuple or list of tensors"):
        export_bricks_as_onnx(tmp_path / "model.onnx", model, {"image": value}, dynamic_batch_size=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_of_half_precision_is_compared_with_the_tolerance_of_its_precision(tmp_path):
    torch.manual_seed(0)
    half = create_model("test_resnet_cls_seg", num_classes={"cls": 5, "seg": 3}).eval().half()
    export_onnx(half, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").is_file()
