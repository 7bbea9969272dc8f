"""Centres of the cells of feature maps in image coordinates, and anchors around them.

Unlike torchvision's `AnchorGenerator`, which computes strides by integer division of sizes (wrong for images that are
not divisible by the stride) and centres anchors on the corners of cells
(https://github.com/pytorch/vision/issues/7473), `cell_centers` uses the strides of the backbone, and the centre of cell
(i, j) of stride s is ((j + 1/2) s, (i + 1/2) s), as in FCOS (Tian et al. 2019, https://arxiv.org/abs/1904.01355).
Heads with weights of torchvision need its anchors, `torchvision_anchors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor


def levels_from(strides: Sequence[int], finest: int) -> list[int]:
    """Return the indices of the maps with a stride of about `finest` or more, or the last index if there are none.

    A stride may be smaller than `finest` by a factor below the square root of two, e.g. 7 for 8.

    Example:
        >>> levels_from([2, 4, 8, 16, 32], finest=8)
        [2, 3, 4]
    """
    return [level for level, stride in enumerate(strides) if 2 * stride**2 > finest**2] or [len(strides) - 1]


def cell_centers(
    maps: Sequence[Tensor], strides: Sequence[int], image_size: Sequence[int], num_backbone_maps: int
) -> list[Tensor]:
    """Compute the centre of each cell in image coordinates.

    Args:
        maps: Feature maps (B, C, h, w), fine to coarse.
        strides: The stride of each map.
        image_size: (H, W).
        num_backbone_maps: The number of maps with the size of a map of the backbone. The others were computed from the
            last of these and start at the same position.

    Returns:
        For each map (h * w, 2) float32, x and y in pixels, in row-major order.

    Example:
        >>> cell_centers([torch.zeros(1, 8, 1, 2)], strides=[8], image_size=(8, 16), num_backbone_maps=1)
        [tensor([[ 4.,  4.],
                [12.,  4.]])]
    """
    centers = []
    top = left = 0.0
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        height, width = features.shape[-2:]
        if level < num_backbone_maps:
            top, left = _start(image_size[0], height, stride), _start(image_size[1], width, stride)
        y = (torch.arange(height, device=features.device, dtype=torch.float32) + 0.5) * stride + top
        x = (torch.arange(width, device=features.device, dtype=torch.float32) + 0.5) * stride + left
        centers.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1))
    return centers


def anchors_around(centers: Sequence[Tensor], shapes: Sequence[Sequence[tuple[float, float]]]) -> Tensor:
    """Create boxes of the given shapes around the centres of cells.

    Args:
        centers: For each map (n, 2), x and y in pixels.
        shapes: For each map the widths and heights of the anchors of a cell, in pixels.

    Returns:
        (P, 4), ordered by map, cell and shape, as the outputs of torchvision's heads.
    """
    anchors = []
    for points, sizes in zip(centers, shapes, strict=True):
        half = torch.tensor(sizes, dtype=points.dtype, device=points.device) / 2
        corners = [points[:, None] - half, points[:, None] + half]
        anchors.append(torch.cat(corners, dim=-1).flatten(0, 1))
    return torch.cat(anchors)


def create_anchors(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    image_size: Sequence[int],
    num_backbone_maps: int,
    shapes: Sequence[Sequence[tuple[float, float]]],
    *,
    as_torchvision: bool = False,
) -> Tensor:
    """Create the anchors of a detector.

    Args:
        maps: See `cell_centers`, as `strides`, `image_size` and `num_backbone_maps`.
        strides: The strides of the maps.
        image_size: (H, W).
        num_backbone_maps: The number of maps that the backbone computes.
        shapes: For each map the widths and heights of the anchors of a cell, in pixels.
        as_torchvision: Whether they are those of torchvision, see `torchvision_anchors`, instead of being around the
            centres of cells.

    Returns:
        (P, 4), ordered by map, cell and shape.
    """
    if as_torchvision:
        return torchvision_anchors(maps, image_size, shapes)
    return anchors_around(cell_centers(maps, strides, image_size, num_backbone_maps), shapes)


def torchvision_anchors(
    maps: Sequence[Tensor], image_size: Sequence[int], shapes: Sequence[Sequence[tuple[float, float]]]
) -> Tensor:
    """Create the anchors of torchvision's `AnchorGenerator`, for heads that were trained on them.

    They are around the top left corners of cells, the distance between cells is the size of the image divided by that
    of the map, rounded down, and half the sides are rounded to integers.

    Args:
        maps: Feature maps (B, C, h, w), fine to coarse.
        image_size: (H, W).
        shapes: For each map the widths and heights of the anchors of a cell, in pixels, before rounding.

    Returns:
        (P, 4), ordered as those of `anchors_around`.
    """
    corners = []
    for features in maps:
        height, width = features.shape[-2:]
        x = torch.arange(width, device=features.device, dtype=torch.float32) * (image_size[1] // width)
        y = torch.arange(height, device=features.device, dtype=torch.float32) * (image_size[0] // height)
        corners.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1))
    rounded = [[(2.0 * round(width / 2), 2.0 * round(height / 2)) for width, height in sizes] for sizes in shapes]
    return anchors_around(corners, rounded)


def _start(size: int, cells: int, stride: int) -> float:
    """Compute the position of the edge of the first cell, in pixels.

    It is 0, unless the map is at least one cell smaller than the image: then convolutions without padding cropped both
    sides equally (inception_v3 has 8 cells of stride 32 for 299 pixels). There are no branches, so that a traced size
    stays dynamic.
    """
    missing = size - cells * stride
    shifted = torch.sym_min(1, torch.sym_max(0, missing // stride)) * missing / 2
    return cast("float", shifted)  # or a `torch.SymFloat`
