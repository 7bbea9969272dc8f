"""Crop, resize, flip and transpose images and labels that are wrapped as `tv_tensors`, and map outputs back.

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

from brickyard.core.specs import RESIZE_MODES, ResizeMode
from brickyard.errors import UnknownNameError

FRAME_FILL = 128  # grey: the value of uint8 pixels outside of an image
Value = TypeVar("Value", bound=Tensor)


@final
class Window(NamedTuple):
    """A window of an image in pixels; it may reach beyond the image."""

    top: int
    left: int
    height: int
    width: int


@final
class ResizeGeometry(NamedTuple):
    """Where an image lies in the frame that it is resized to; see `resize_geometry`.

    Attributes:
        original: (height, width) of the image in pixels.
        size: (height, width) of the frame.
        content: The window of the frame that the resized image covers; the rest is padding.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    content: Window

    @property
    def offset_and_scale(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """((left, top), (x scale, y scale)): x becomes left + x * scale."""
        top, left, height, width = self.content
        return (left, top), (width / self.original[1], height / self.original[0])


def resize_geometry(original: tuple[int, int], size: tuple[int, int], mode: ResizeMode) -> ResizeGeometry:
    """Compute where an image lies in a frame.

    Args:
        original: (height, width) of the image in pixels.
        size: (height, width) of the frame.
        mode: "squash" fills the frame, which changes the aspect ratio; "letterbox" keeps the aspect ratio and centers
            the image, as in YOLOv5 (https://github.com/ultralytics/yolov5).

    Raises:
        UnknownNameError: The mode is another one.

    Example:
        >>> resize_geometry((100, 200), (64, 64), "letterbox").content
        Window(top=16, left=0, height=32, width=64)
    """
    if mode not in RESIZE_MODES:
        raise UnknownNameError("resize mode", mode, RESIZE_MODES)
    if mode == "squash":
        return ResizeGeometry(original, size, Window(0, 0, *size))
    scale = min(side / before for side, before in zip(size, original, strict=True))
    height, width = (max(1, round(side * scale)) for side in original)
    return ResizeGeometry(original, size, Window((size[0] - height) // 2, (size[1] - width) // 2, height, width))


def resize_into(value: Value, geometry: ResizeGeometry, fill: float, interpolation: InterpolationMode) -> Value:
    """Resize and pad an image or a label: an image with antialiasing, a mask by its nearest pixels."""
    top, left, height, width = geometry.content
    resized = resize(value, [height, width], interpolation)
    if (height, width) == geometry.size:
        return resized
    return crop(resized, Window(-top, -left, *geometry.size), fill)


def boxes_to_original(boxes: Tensor, geometry: ResizeGeometry) -> Tensor:
    """Map boxes (..., 4), xyxy in pixels of the frame, to the pixels of the original image, clamped to it."""
    height, width = geometry.original
    corners = points_to_original(boxes.reshape(*boxes.shape[:-1], 2, 2), geometry)
    return corners.clamp(min=corners.new_zeros(2), max=corners.new_tensor([width, height])).reshape(boxes.shape)


def points_to_original(points: Tensor, geometry: ResizeGeometry) -> Tensor:
    """Map points (..., 2), x and y in pixels of the frame, to the original image; those of the padding lie outside."""
    offset, scale = geometry.offset_and_scale
    return (points - points.new_tensor(offset)) / points.new_tensor(scale)


def masks_to_original(masks: Tensor, geometry: ResizeGeometry) -> Tensor:
    """Map dense values (..., H, W), such as classes or depths, to the original image by the nearest pixels."""
    top, left, height, width = geometry.content
    content = masks[..., top : top + height, left : left + width]
    channels = content.reshape(-1, height, width)
    resized: Tensor = F.resize_image(channels, list(geometry.original), InterpolationMode.NEAREST_EXACT)
    return resized.reshape(*masks.shape[:-2], *geometry.original)


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
