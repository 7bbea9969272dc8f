import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard import (
    BrickInputError,
    batched_tensor_to_channel_last,
    float2uint8,
    function_composer,
    torch_to_numpy,
    unpack_batched_array_to_arrays,
    unpack_batched_tensor_to_numpy_format,
    unpack_batched_tensor_to_pillow_images,
    unpack_batched_tensor_to_torchvision_format,
)
from brickyard.core.conversions import uint8_to_float32


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5,), (0,)),
        ((5, 3), (0, 1)),
        ((5, 3, 10), (0, 2, 1)),
        ((5, 3, 10, 20), (0, 2, 3, 1)),
        ((5, 3, 4, 6, 7), (0, 2, 3, 4, 1)),
    ],
)
def test_channels_are_moved_last(shape, axes):
    tensor = torch.rand(shape)
    np.testing.assert_array_equal(batched_tensor_to_channel_last(tensor).numpy(), np.transpose(tensor.numpy(), axes))


@pytest.mark.parametrize(
    ("shape", "item"),
    [((5,), (1,)), ((5, 3), (3,)), ((5, 3, 10), (10, 3)), ((5, 3, 10, 20), (10, 20, 3)), ((0, 3, 10, 20), None)],
)
def test_a_batch_is_split_into_channel_last_arrays(shape, item):
    tensor = torch.rand(shape)
    arrays = unpack_batched_tensor_to_numpy_format(tensor)
    assert len(arrays) == shape[0]
    for array, image in zip(arrays, tensor, strict=True):
        assert isinstance(array, np.ndarray)
        assert array.shape == item
        np.testing.assert_array_equal(array, (image.movedim(0, -1) if image.ndim > 1 else image).reshape(item).numpy())


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 10), (5, 3, 10, 20)])
def test_a_batch_is_split_into_unchanged_tensors(shape):
    tensor = torch.rand(shape)
    tensors = unpack_batched_tensor_to_torchvision_format(tensor)
    assert len(tensors) == 5
    assert torch.equal(torch.stack(tensors), tensor)


def test_an_array_is_split_along_its_first_axis():
    arrays = unpack_batched_array_to_arrays(np.arange(3))
    assert [array.tolist() for array in arrays] == [[0], [1], [2]]
    arrays = unpack_batched_array_to_arrays(np.arange(6).reshape(2, 3))
    assert [array.tolist() for array in arrays] == [[0, 1, 2], [3, 4, 5]]


def test_a_tensor_becomes_a_detached_array_of_its_dtype():
    tensor = torch.ones(2, requires_grad=True)
    assert torch_to_numpy(tensor).dtype == np.float32
    assert torch_to_numpy(torch.tensor([1])).dtype == np.int64
    np.testing.assert_array_equal(torch_to_numpy(tensor), np.ones(2))


def test_every_uint8_value_survives_a_round_trip_through_float():
    values = np.arange(256, dtype=np.uint8)
    for kind in (np.float32, np.float64):
        np.testing.assert_array_equal(float2uint8(values.astype(kind) / 255), values)
    np.testing.assert_array_equal(float2uint8((values / 255).astype(np.float16)), values)


def test_values_outside_the_range_are_clipped_and_uint8_is_unchanged():
    assert float2uint8(np.array([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]
    assert float2uint8(np.array([0, 7, 255], dtype=np.uint8)).tolist() == [0, 7, 255]


def test_uint8_is_scaled_and_other_dtypes_are_cast():
    scaled = uint8_to_float32(np.array([0, 51, 255], dtype=np.uint8))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_array_equal(uint8_to_float32(np.array([0.5, 2.0])), np.array([0.5, 2.0], dtype=np.float32))


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_a_batch_becomes_pillow_images(kind):
    pixels = torch.randint(256, (2, 3, 10, 20), dtype=torch.uint8)
    batch = pixels if kind == torch.uint8 else pixels / 255
    images = unpack_batched_tensor_to_pillow_images(batch)
    assert [image.size for image in images] == [(20, 10), (20, 10)]
    for image, expected in zip(images, pixels, strict=True):
        assert isinstance(image, Image.Image)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(5, 3, 10), (5, 4, 10, 20), (3, 10, 20)])
def test_a_batch_of_another_shape_is_refused(shape):
    with pytest.raises(BrickInputError, match=r"\(B, 3, H, W\)"):
        unpack_batched_tensor_to_pillow_images(torch.ones(shape))


def test_functions_are_composed_from_left_to_right():
    assert function_composer(torch_to_numpy, lambda array: array * 2, list)(torch.ones(3)) == [2, 2, 2]
    assert function_composer()(5) == 5


def test_a_composed_function_can_be_pickled():
    composed = pickle.loads(pickle.dumps(function_composer(torch_to_numpy, list)))
    assert composed(torch.tensor([1, 2])) == [1, 2]


def test_bfloat16_becomes_float32_with_equal_values():
    tensor = torch.tensor([[0.1, -3.0], [float("inf"), 2.0]], dtype=torch.bfloat16)
    array = torch_to_numpy(tensor)
    assert array.dtype == np.float32
    assert array.tolist() == tensor.tolist()
    assert torch_to_numpy(tensor.half()).dtype == np.float16
