"""The feature pyramid of the detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from brickyard.parts.detection.points import levels_from


@final
class DetectionNeck(nn.Module):
    """torchvision's `FeaturePyramidNetwork` (Lin et al. 2017, https://arxiv.org/abs/1612.03144) with two coarser maps.

    Args:
        channels: Of the backbone's maps, whose strides grow.
        strides: Of the backbone's maps.
        width: Channels of every map that comes out.
        finest: The stride to begin with, see `levels_from`.

    Attributes:
        strides: Of the maps that come out.
        own: How many of these stand for a map of the backbone; the further two are made of the last of them.

    Shape: (B, C_i, H / s_i, W / s_i) -> (B, width, H / s_j, W / s_j).
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int, finest: int) -> None:
        super().__init__()
        self.levels = levels_from(strides, finest)
        self.own = len(self.levels)
        own = [strides[level] for level in self.levels]
        self.strides = (*own, own[-1] * 2, own[-1] * 4)
        self.fpn = FeaturePyramidNetwork(
            [channels[level] for level in self.levels], width, extra_blocks=LastLevelP6P7(width, width)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return list(self.fpn({str(level): features[level] for level in self.levels}).values())
