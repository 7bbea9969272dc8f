"""Necks: from the feature maps of any backbone to a pyramid of growing strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from brickyard.core.specs import FeatureSpec


def pyramid_spec(features: FeatureSpec) -> FeatureSpec:
    """What `Pyramid` makes of these feature maps.

    Backbones with growing strides keep one map a stride, the deepest. Those of one stride s get maps of s/4, s/2, s and
    2s (4, 8, 16 and 32 for a ViT with patches of 16; no s/4 or s/2 where that is no whole number).
    """
    levels = _deepest(features)
    if len(levels) > 1:
        return FeatureSpec(
            channels=tuple(features.channels[level] for level in levels),
            strides=tuple(features.strides[level] for level in levels),
        )
    channels, stride = features.channels[-1], features.strides[-1]
    finer = [factor for factor in (4, 2) if stride % factor == 0]
    return FeatureSpec(
        channels=(*(max(channels // factor, 1) for factor in finer), channels, channels),
        strides=(*(stride // factor for factor in finer), stride, stride * 2),
    )


@final
class Pyramid(nn.Module):
    """Feature maps of any backbone -> a list of maps with growing strides, see `pyramid_spec`.

    Of one stride, the maps are made as in ViTDet's simple feature pyramid (Li et al. 2022, https://arxiv.org/abs/2203.16527).

    Args:
        channels: Of the backbone's maps.
        strides: Of the backbone's maps.
        keep: The indices of the maps to return, None for all; so that no weights are there for maps that nobody reads.

    Shape: maps (B, channels[i], H / strides[i], W / strides[i]) -> (B, C_j, H / s_j, W / s_j).
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], keep: Sequence[int] | None = None) -> None:
        super().__init__()
        levels = _deepest(FeatureSpec(tuple(channels), tuple(strides)))
        scales = [nn.Identity() for _ in levels] if len(levels) > 1 else _scales(channels[-1], strides[-1])
        kept = range(len(scales)) if keep is None else keep
        self.levels = [levels[index if len(levels) > 1 else 0] for index in kept]
        self.scales = nn.ModuleList(scales[index] for index in kept)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [scale(features[level]) for level, scale in zip(self.levels, self.scales, strict=True)]


def _scales(width: int, stride: int) -> list[nn.Module]:
    """From a map to those of s/4, s/2, s and 2s, as far as they are whole numbers."""
    half, quarter = max(width // 2, 1), max(width // 4, 1)
    fourfold = [_deconvolution(width, half), LayerNorm2d(half), nn.GELU(), _deconvolution(half, quarter)]
    return [
        *([nn.Sequential(*fourfold)] if stride % 4 == 0 else []),
        *([_deconvolution(width, half)] if stride % 2 == 0 else []),
        nn.Identity(),
        nn.MaxPool2d(2, ceil_mode=True),
    ]


def _deconvolution(channels: int, out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out, kernel_size=2, stride=2)


def _deepest(features: FeatureSpec) -> list[int]:
    """The last index of each stride, fine to coarse."""
    last = {stride: level for level, stride in enumerate(features.strides)}
    return [last[stride] for stride in sorted(last)]
