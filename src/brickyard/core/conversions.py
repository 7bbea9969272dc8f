"""Convert batched tensors to one array, tensor or Pillow image per image, as drawing functions take them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from brickyard.errors import BrickInputError

Array = npt.NDArray[Any]


def function_composer(*functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compose functions, applied from left to right; the result can be pickled if they can.

    Example:
        >>> function_composer(str.strip, str.upper)(" cat ")
        'CAT'
    """
    return functools.partial(_apply, functions)


def _apply(functions: tuple[Callable[[Any], Any], ...], value: Any) -> Any:
    return functools.reduce(lambda result, function: function(result), functions, value)


def torch_to_numpy(tensor: Tensor) -> Array:
    """Convert a tensor on any device, detached from the graph, to an array of the same shape and dtype.

    bfloat16, which NumPy does not have, becomes float32.
    """
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.detach().cpu().numpy()
    return array


def float2uint8(array: Array) -> npt.NDArray[np.uint8]:
    """Convert floats in [0, 1] to uint8 in [0, 255]: clipped and rounded. A uint8 array is returned unchanged.

    Example:
        >>> float2uint8(np.array([-1.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    if array.dtype == np.uint8:
        return array
    pixels: npt.NDArray[np.uint8] = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return pixels


def uint8_to_float32(array: Array) -> npt.NDArray[np.float32]:
    """Convert uint8 in [0, 255] to float32 in [0, 1]. An array of another dtype is cast to float32, not scaled."""
    return array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else np.asarray(array, np.float32)


def batched_tensor_to_channel_last(tensor: Tensor) -> Tensor:
    """Move channels last: (B, C, ...) -> (B, ..., C).

    Tensors without a channel dimension before others are returned unchanged: (B,), (B, C) and integer maps (B, H, W).
    """
    if tensor.ndim < 3 or (tensor.ndim == 3 and not tensor.is_floating_point()):
        return tensor
    return tensor.movedim(1, -1)


def unpack_batched_array_to_arrays(array: Array) -> list[Array]:
    """Split a batched array: (B, ...) -> list of B arrays (...); for (B,), arrays of shape (1,)."""
    return list(array.reshape(-1, 1) if array.ndim == 1 else array)


def unpack_batched_tensor_to_numpy_format(batched_tensor: Tensor) -> list[Array]:
    """Split a batch into writable channel-last arrays.

    Shape: (B, C, H, W) -> list of B arrays (H, W, C); (B, C) -> (C,); (B,) -> (1,).
    """
    shared = torch_to_numpy(batched_tensor_to_channel_last(batched_tensor))
    return unpack_batched_array_to_arrays(np.array(shared, order="C"))


def unpack_batched_tensor_to_torchvision_format(batched_tensor: Tensor) -> list[Tensor]:
    """Split a batch: (B, C, H, W) -> list of B tensors (C, H, W), as torchvision's drawing functions take them."""
    return list(batched_tensor)


def unpack_batched_tensor_to_pillow_images(batched_tensor: Tensor) -> list[Image.Image]:
    """Convert a batch (B, 3, H, W), float in [0, 1] or uint8, to a list of B Pillow images.

    Raises:
        BrickInputError: The tensor has another shape.
    """
    if batched_tensor.ndim != 4 or batched_tensor.shape[1] != 3:
        raise BrickInputError(
            "unpack_batched_tensor_to_pillow_images", "a tensor (B, 3, H, W)", f"{tuple(batched_tensor.shape)}"
        )
    return [Image.fromarray(float2uint8(array)) for array in unpack_batched_tensor_to_numpy_format(batched_tensor)]
