"""A feature pyramid followed by residual blocks on its finest map, for heads that predict small objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.blocks import ResidualAdd, conv1x1, conv3x3_bn, conv3x3_bn_act


@final
class PyramidTower(nn.Module):
    """Merge feature maps top-down into the finest one, as in a feature pyramid network, and apply residual blocks.

    The pyramid (Lin et al. 2017, https://arxiv.org/abs/1612.03144) adds the context of the coarse maps to each cell of
    the finest map; the residual blocks (He et al. 2015, https://arxiv.org/abs/1512.03385) exchange information between
    neighbouring cells. Maps are resized to the actual size of the next finer one; strides are not used.

    Args:
        channels: The channels of the maps, fine to coarse.
        width: The hidden and output channels.
        depth: The number of residual blocks.

    Shape: maps (B, channels[i], h_i, w_i) -> (B, width, h_0, w_0).
    """

    def __init__(self, channels: Sequence[int], width: int, depth: int) -> None:
        super().__init__()
        # No batch norm on the coarse maps: they have too few cells for its statistics.
        self.laterals = nn.ModuleList(conv1x1(c, width) for c in channels)
        self.smooth = conv3x3_bn_act(width, width, padding=1, bias=False)
        self.blocks = nn.Sequential(*(_residual_block(width) for _ in range(depth)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        merged = maps.pop()
        while maps:
            finer = maps.pop()
            resized = F.interpolate(merged, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            merged = finer + resized
        return self.blocks(self.smooth(merged))  # type: ignore[no-any-return]


def _residual_block(width: int) -> nn.Module:
    """Create two 3x3 convolutions with batch norm and a residual connection."""
    block = conv3x3_bn_act(width, width, padding=1, bias=False).extend(conv3x3_bn(width, width, padding=1, bias=False))
    return nn.Sequential(ResidualAdd(block), nn.ReLU())
