"""From batched tensors to what drawing functions take: one array or picture for each image of the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from brickyard.errors import BrickInputError

Array = npt.NDArray[Any]


def function_composer(*functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One function that applies `functions` from left to right."""
    return functools.partial(_apply, functions)


def _apply(functions: tuple[Callable[[Any], Any], ...], value: Any) -> Any:
    return functools.reduce(lambda result, function: function(result), functions, value)


def torch_to_numpy(tensor: Tensor) -> Array:
    """A tensor of any device as an array of the same shape and dtype."""
    array: Array = tensor.detach().cpu().numpy()
    return array


def float2uint8(array: Array) -> npt.NDArray[np.uint8]:
    """[0, 1] -> [0, 255], rounded; values outside are clipped, and uint8 stays as it is."""
    if array.dtype == np.uint8:
        return array
    pixels: npt.NDArray[np.uint8] = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return pixels


def batched_tensor_to_channel_last(tensor: Tensor) -> Tensor:
    """(B, C, ...) -> (B, ..., C); what has no channels stays: (B, C), (B,) and integer maps (B, H, W)."""
    if tensor.ndim < 3 or (tensor.ndim == 3 and not tensor.is_floating_point()):
        return tensor
    return tensor.movedim(1, -1)


def unpack_batched_array_to_arrays(array: Array) -> list[Array]:
    """(B, ...) -> B arrays (...); of (B,) each array is (1,)."""
    return list(array.reshape(-1, 1) if array.ndim == 1 else array)


def unpack_batched_tensor_to_numpy_format(batched_tensor: Tensor) -> list[Array]:
    """(B, C, H, W) -> B arrays (H, W, C); (B, C) -> B arrays (C,); (B,) -> B arrays (1,); copies, to be drawn on."""
    shared = torch_to_numpy(batched_tensor_to_channel_last(batched_tensor))
    return unpack_batched_array_to_arrays(np.array(shared, order="C"))


def unpack_batched_tensor_to_torchvision_format(batched_tensor: Tensor) -> list[Tensor]:
    """(B, C, H, W) -> B tensors (C, H, W), the form of torchvision's drawing functions."""
    return list(batched_tensor)


def unpack_batched_tensor_to_pillow_images(batched_tensor: Tensor) -> list[Image.Image]:
    """(B, 3, H, W), float in [0, 1] or uint8 -> B pictures.

    Raises:
        BrickInputError: Another shape.
    """
    if batched_tensor.ndim != 4 or batched_tensor.shape[1] != 3:
        raise BrickInputError("pictures of a batch", "a tensor (B, 3, H, W)", f"{tuple(batched_tensor.shape)}")
    return [Image.fromarray(float2uint8(array)) for array in unpack_batched_tensor_to_numpy_format(batched_tensor)]
