"""A map that is fine and deep at once: what heads for small things are built on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.blocks import ResidualAdd, conv1x1, conv3x3_bn, conv3x3_bn_act


@final
class PyramidTower(nn.Module):
    """A feature pyramid down to its finest map (Lin et al. 2017, https://arxiv.org/abs/1612.03144), and on that map
    residual blocks (He et al. 2015, https://arxiv.org/abs/1512.03385).

    The pyramid brings what the coarse maps know of the whole thing to each of its cells; the blocks let cells that
    show parts of one thing agree on what it is.

    Args:
        channels: Of the maps, fine to coarse.
        width: Channels inside and of the result.
        depth: How many residual blocks.

    Shape: maps (B, channels[i], h_i, w_i) -> (B, width, h_0, w_0). It goes by the sizes that the maps have.
    """

    def __init__(self, channels: Sequence[int], width: int, depth: int) -> None:
        super().__init__()
        # Without norms on coarse maps, whose few cells are none to take statistics of.
        self.laterals = nn.ModuleList(conv1x1(c, width) for c in channels)
        self.smooth = conv3x3_bn_act(width, width, padding=1, bias=False)
        self.blocks = nn.Sequential(*(_residual_block(width) for _ in range(depth)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [lateral(each) for lateral, each in zip(self.laterals, features, strict=True)]
        merged = maps.pop()
        while maps:
            finer = maps.pop()
            resized = F.interpolate(merged, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            merged = finer + resized
        return self.blocks(self.smooth(merged))  # type: ignore[no-any-return]


def _residual_block(width: int) -> nn.Module:
    """Two 3x3 convolutions with batch norm, added to what comes in."""
    inside = conv3x3_bn_act(width, width, padding=1, bias=False).extend(conv3x3_bn(width, width, padding=1, bias=False))
    return nn.Sequential(ResidualAdd(inside), nn.ReLU())
