"""Small masks of objects, at the size of images."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

_INSIDE = 0.5  # the probability from which a pixel is part of an object


def paste_mask(mask: npt.NDArray[Any], box: Sequence[float], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Resize the mask of an object bilinearly to an image, and crop it to its box.

    Args:
        mask: (h, w), in [0, 1]; it covers the image.
        box: (x1, y1, x2, y2), in pixels of the image.
        size: (H, W) of the image.

    Returns:
        (H, W) bool, the pixels whose centre is in the box with a probability above 0.5.

    Example:
        >>> paste_mask(np.array([[0.0, 1.0]]), (0, 0, 3, 1), (1, 4)).tolist()
        [[False, False, True, False]]
    """
    pixels = np.zeros(size, dtype=bool)
    left, top, right, bottom = (float(side) for side in box)
    rows, columns = _centers(top, bottom, size[0]), _centers(left, right, size[1])
    if len(rows) and len(columns):
        (height, width), (first_row, first_column) = mask.shape, (int(rows[0]), int(columns[0]))
        patch: npt.NDArray[np.bool_] = _sampled(mask, rows * (height / size[0]), columns * (width / size[1])) > _INSIDE
        pixels[first_row : first_row + len(rows), first_column : first_column + len(columns)] = patch
    return pixels


def cover_window(masks: npt.NDArray[Any], size: tuple[int, int], window: tuple[int, int, int, int]) -> npt.NDArray[Any]:
    """Crop masks that cover an image, so that they cover a window of it, at the same resolution.

    Args:
        masks: (N, h, w).
        size: (H, W) of the image.
        window: (top, left, height, width) in pixels, within the image.

    Returns:
        (N, h', w'), in proportion to the window; `masks` itself for the whole image.
    """
    top, left, height, width = window
    if (top, left, height, width) == (0, 0, *size):
        return masks
    scale_y, scale_x = masks.shape[-2] / size[0], masks.shape[-1] / size[1]
    rows, columns = max(1, round(height * scale_y)), max(1, round(width * scale_x))
    y = (top + (np.arange(rows) + 0.5) * (height / rows)) * scale_y
    x = (left + (np.arange(columns) + 0.5) * (width / columns)) * scale_x
    return _sampled(masks, y, x)


def _centers(low: float, high: float, length: int) -> npt.NDArray[Any]:
    """Return the centres of the pixels from `low` to `high` along one side of an image."""
    start, stop = (min(max(ceil(each - 0.5), 0), length) for each in (low, high))
    return np.arange(start, stop) + 0.5


def _sampled(maps: npt.NDArray[Any], y: npt.NDArray[Any], x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Interpolate maps (..., h, w) at rows y and columns x, where the first cell spans [0, 1]: (..., Y, X)."""
    for axis, positions in ((-2, y), (-1, x)):
        length = maps.shape[axis]
        low = np.floor(positions - 0.5)
        share = positions - 0.5 - low
        first, second = (np.clip(index, 0, length - 1).astype(np.int64) for index in (low, low + 1))
        shape = (-1, 1) if axis == -2 else (-1,)
        weight = share.reshape(shape)
        maps = np.take(maps, first, axis) * (1 - weight) + np.take(maps, second, axis) * weight
    return maps
