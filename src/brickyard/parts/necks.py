"""Necks: convert the feature maps of any backbone to a pyramid of increasing strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from brickyard.core.specs import FeatureSpec


def pyramid_spec(features: FeatureSpec) -> FeatureSpec:
    """Compute the output channels and strides of `Pyramid` for the feature maps of a backbone.

    For a backbone with several strides, the pyramid has one map per stride, the deepest. For a backbone with a single
    stride s, it has maps of stride s/4, s/2, s and 2s, without those that are not integers (4, 8, 16 and 32 for a ViT
    with 16 x 16 patches).

    Example:
        >>> pyramid_spec(FeatureSpec(channels=(192, 192), strides=(16, 16)))
        FeatureSpec(channels=(48, 96, 192, 192), strides=(4, 8, 16, 32))
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
    """Convert the feature maps of any backbone to a list of maps with increasing strides, see `pyramid_spec`.

    From maps of a single stride, it builds ViTDet's simple feature pyramid (Li et al. 2022,
    https://arxiv.org/abs/2203.16527).

    Args:
        channels: The channels of the backbone's maps.
        strides: The strides of the backbone's maps.
        keep: The indices of the maps to return, None for all. There are no weights for the others.

    Shape: maps (B, channels[i], H / strides[i], W / strides[i]) -> list of (B, C_j, H / s_j, W / s_j).
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
    """Create the modules from a map of stride s to maps of stride s/4, s/2, s and 2s, where these are integers."""
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
    """Return the index of the deepest map of each stride, fine to coarse."""
    last = {stride: level for level, stride in enumerate(features.strides)}
    return [last[stride] for stride in sorted(last)]
