"""Where the cells of feature maps lie on the picture, and anchors around them.

torchvision's `AnchorGenerator` finds strides by integer division of sizes, which is wrong for pictures that the stride
does not divide, and centres anchors on the corners of cells (https://github.com/pytorch/vision/issues/7473). Here the
strides are the backbone's own and cell (i, j) of stride s is centred on ((j + 1/2) s, (i + 1/2) s), as in FCOS (Tian et
al. 2019, https://arxiv.org/abs/1904.01355).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor


def levels_from(strides: Sequence[int], finest: int) -> list[int]:
    """The indices of the maps of a stride near `finest` or coarser; the last where there is none.

    Near is less than a factor of the square root of two away, so that a map of stride 7 serves for one of 8.
    """
    return [level for level, stride in enumerate(strides) if 2 * stride**2 > finest**2] or [len(strides) - 1]


def cell_centers(maps: Sequence[Tensor], strides: Sequence[int], image_size: Sequence[int], own: int) -> list[Tensor]:
    """The centre of each cell.

    Args:
        maps: (B, C, h, w) each.
        strides: One a map.
        image_size: (H, W).
        own: How many maps are the backbone's; the further ones were made of the last of these and lie as it does.

    Returns:
        For each map (h * w, 2), x and y in pixels, row by row; float32.
    """
    centers = []
    top = left = 0.0
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        height, width = features.shape[-2:]
        if level < own:
            top, left = _origin(image_size[0], height, stride), _origin(image_size[1], width, stride)
        y = (torch.arange(height, device=features.device, dtype=torch.float32) + 0.5) * stride + top
        x = (torch.arange(width, device=features.device, dtype=torch.float32) + 0.5) * stride + left
        centers.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1))
    return centers


def anchors_around(centers: Sequence[Tensor], shapes: Sequence[Sequence[tuple[float, float]]]) -> Tensor:
    """Boxes of given shapes around the centres.

    Args:
        centers: For each map (n, 2).
        shapes: For each map the A widths and heights of its anchors.

    Returns:
        (P, 4), map by map, cell by cell, the A anchors of a cell one after the other: the order of torchvision's heads.
    """
    anchors = []
    for points, sizes in zip(centers, shapes, strict=True):
        half = torch.tensor(sizes, dtype=points.dtype, device=points.device) / 2
        corners = [points[:, None] - half, points[:, None] + half]
        anchors.append(torch.cat(corners, dim=-1).flatten(0, 1))
    return torch.cat(anchors)


def _origin(size: int, cells: int, stride: int) -> float:
    """Where the first cell begins.

    At 0, unless the map is a cell or more short of the picture: then the backbone's convolutions have cut as much off
    either side (inception_v3 has 8 cells of 32 for 299 pixels). No branches, so that a traced size stays dynamic.
    """
    missing = size - cells * stride
    shifted = torch.sym_min(1, torch.sym_max(0, missing // stride)) * missing / 2
    return cast("float", shifted)  # or a symbol for one
