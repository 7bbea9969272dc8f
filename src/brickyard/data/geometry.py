"""Crop, resize, flip and transpose images and labels that are wrapped as `tv_tensors`.

`torchvision.transforms.v2.functional` does the work, with two exceptions. Points: torchvision 0.23 clamps them to the
image, after which a point outside cannot be recognised, and every version flips x to W - 1 - x, which is right for
indices of pixels but not for coordinates, where the first pixel spans [0, 1]. Masks: of the pixels that become one,
torchvision takes the one at the corner, which shifts a mask against its image; here it is the one in the middle.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar, final

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

Value = TypeVar("Value", bound=Tensor)


@final
class Window(NamedTuple):
    """A window of an image in pixels; it may reach beyond the image."""

    top: int
    left: int
    height: int
    width: int


def crop(value: Value, window: Window, fill: float) -> Value:
    """Crop to a window; pixels outside of the image become `fill`, boxes are clamped to the window, points are not."""
    top, left, height, width = window
    if isinstance(value, tv_tensors.KeyPoints):
        offset = torch.tensor([left, top], dtype=value.dtype, device=value.device)
        return _like(value, value.as_subclass(Tensor) - offset, canvas_size=(height, width))
    if isinstance(value, (tv_tensors.Image, tv_tensors.Mask)):
        rows, columns = value.shape[-2:]
        padding = [max(0, -left), max(0, -top), max(0, left + width - columns), max(0, top + height - rows)]
        if any(padding):
            value = F.pad(value, padding, fill=fill)
            top, left = top + padding[1], left + padding[0]
    cropped: Value = F.crop(value, top, left, height, width)
    return cropped


def resize(value: Value, size: list[int], interpolation: InterpolationMode) -> Value:
    """Resize to (height, width): an image with antialiasing, a mask by its nearest pixels, boxes and points scaled."""
    if not isinstance(value, tv_tensors.Mask):
        resized: Value = F.resize(value, size, interpolation=interpolation, antialias=True)
        return resized
    plain = value.as_subclass(Tensor)
    if not plain.numel():  # no instances
        return _like(value, plain.new_zeros((*plain.shape[:-2], *size)))
    channels = plain[None] if plain.ndim == 2 else plain
    nearest = F.resize_image(channels, size, InterpolationMode.NEAREST_EXACT)
    return _like(value, nearest[0] if plain.ndim == 2 else nearest)


def horizontal_flip(value: Value) -> Value:
    """Swap left and right."""
    if isinstance(value, tv_tensors.KeyPoints):
        x, y = value.as_subclass(Tensor).unbind(dim=-1)
        return _like(value, torch.stack([value.canvas_size[1] - x, y], dim=-1))
    flipped: Value = F.horizontal_flip(value)
    return flipped


def vertical_flip(value: Value) -> Value:
    """Swap top and bottom."""
    if isinstance(value, tv_tensors.KeyPoints):
        x, y = value.as_subclass(Tensor).unbind(dim=-1)
        return _like(value, torch.stack([x, value.canvas_size[0] - y], dim=-1))
    flipped: Value = F.vertical_flip(value)
    return flipped


def transpose(value: Value) -> Value:
    """Swap rows and columns."""
    plain = value.as_subclass(Tensor)
    if isinstance(value, tv_tensors.KeyPoints):
        return _like(value, plain[..., [1, 0]], canvas_size=value.canvas_size[::-1])
    if isinstance(value, tv_tensors.BoundingBoxes):
        return _like(value, plain[:, [1, 0, 3, 2]], canvas_size=value.canvas_size[::-1])
    return _like(value, plain.mT)


def _like(value: Value, moved: Tensor, **settings: tuple[int, int]) -> Value:
    """Wrap a plain tensor as `value` is."""
    wrapped: Value = tv_tensors.wrap(moved, like=value, **settings)
    return wrapped
