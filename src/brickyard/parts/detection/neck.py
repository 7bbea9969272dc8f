"""The feature pyramid of RetinaNet and FCOS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from brickyard.parts.detection.points import levels_from


@final
class DetectionNeck(nn.Module):
    """torchvision's `FeaturePyramidNetwork` (Lin et al. 2017, https://arxiv.org/abs/1612.03144) with two more maps.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        width: The channels of the output maps.
        finest: The stride of the finest output map, see `levels_from`.
        extra_from_backbone: Whether the first of the two further maps is computed from the last map of the backbone
            instead of the last map of the pyramid, as in torchvision's second version of RetinaNet.

    Attributes:
        strides: The strides of the output maps.
        num_backbone_maps: The number of output maps with the size of a map of the backbone. The other two are computed
            from the last of these.

    Shape: maps (B, C_i, H / s_i, W / s_i) -> list of (B, width, H / s_j, W / s_j).
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        finest: int,
        extra_from_backbone: bool = False,
    ) -> None:
        super().__init__()
        self.levels = levels_from(strides, finest)
        self.num_backbone_maps = len(self.levels)
        backbone_strides = [strides[level] for level in self.levels]
        self.strides = (*backbone_strides, backbone_strides[-1] * 2, backbone_strides[-1] * 4)
        extra_blocks = LastLevelP6P7(channels[self.levels[-1]] if extra_from_backbone else width, width)
        extra_blocks.use_P5 = not extra_from_backbone  # torchvision guesses it from the numbers of channels
        self.fpn = FeaturePyramidNetwork([channels[level] for level in self.levels], width, extra_blocks=extra_blocks)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return list(self.fpn({str(level): features[level] for level in self.levels}).values())
