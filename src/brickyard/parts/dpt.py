"""The dense prediction transformer (DPT): depth from four blocks of a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.blocks import conv1x1, conv3x3

_HIDDEN = 32  # the channels before the depth


@final
class DPTDepth(nn.Module):
    """DPT as DINOv2 trained it: class tokens are projected into the maps, which become a pyramid that is fused.

    Source: Ranftl et al. 2021, https://arxiv.org/abs/2103.13413. It has no norms, so it takes small steps: train it
    with a learning rate of about 1e-4.

    Args:
        in_channels: C of maps and class tokens, a multiple of 8.
        width: The channels of the pyramid.
        min_depth: The smallest depth, in the unit of the labels, such as metres.
        max_depth: The largest depth. In training, depth above it is not clamped, so that it has a gradient.

    Shape: four maps (B, C, h, w) and four class tokens (B, C), from the first block to the last -> depth
    (B, 1, H, W) in [min_depth, max_depth], float32, with H = 32 * ceil(h / 2) and W = 32 * ceil(w / 2).
    """

    def __init__(self, in_channels: int, width: int = 256, min_depth: float = 0.001, max_depth: float = 10.0) -> None:
        super().__init__()
        self.min_depth, self.max_depth = min_depth, max_depth
        channels = [in_channels // 8, in_channels // 4, in_channels // 2, in_channels]
        self.readouts = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * in_channels, in_channels), nn.GELU()) for _ in channels
        )
        self.projections = nn.ModuleList(conv1x1(in_channels, each) for each in channels)
        self.resizes = nn.ModuleList(  # 4 h, 2 h, h, h / 2
            [
                nn.ConvTranspose2d(channels[0], channels[0], kernel_size=4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], kernel_size=2, stride=2),
                nn.Identity(),
                conv3x3(channels[3], channels[3], stride=2, padding=1),
            ]
        )
        self.laterals = nn.ModuleList(conv3x3(each, width, padding=1, bias=False) for each in channels)
        self.fusions = nn.ModuleList(_Fusion(width, has_skip=level > 0) for level in range(len(channels)))
        self.smooth = nn.Sequential(conv3x3(width, width, padding=1), nn.ReLU())
        last = conv1x1(_HIDDEN, 1)
        nn.init.normal_(last.weight, std=0.01)
        if last.bias is not None:  # depth starts in the middle of its range: below 0, it has no gradient
            nn.init.constant_(last.bias, (min_depth + max_depth) / 2)
        self.depth = nn.Sequential(
            conv3x3(width, width // 2, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            conv3x3(width // 2, _HIDDEN, padding=1),
            nn.ReLU(),
            last,
        )

    def extra_repr(self) -> str:
        return f"depth in [{self.min_depth}, {self.max_depth}]"

    def forward(self, features: Sequence[Tensor], class_tokens: Sequence[Tensor]) -> Tensor:
        maps = [self._level(level, *pair) for level, pair in enumerate(zip(features, class_tokens, strict=True))]
        fused = self.fusions[0](maps[-1], None)
        for fusion, lateral in zip(self.fusions[1:], maps[-2::-1], strict=True):
            fused = fusion(fused, lateral)
        values: Tensor = self.depth(self.smooth(fused)).float()
        depth = values.relu() + self.min_depth
        if self.training:  # the gradient passes the ReLU everywhere, or a head that is below 0 would stay there
            return values + (depth - values).detach()
        return depth.clamp(max=self.max_depth)

    def _level(self, level: int, features: Tensor, class_token: Tensor) -> Tensor:
        """Return a map of the pyramid: (B, C, h, w) and (B, C) -> (B, width, h', w')."""
        tokens = features.flatten(2).transpose(1, 2)  # (B, h * w, C)
        read = self.readouts[level](torch.cat([tokens, class_token[:, None].expand_as(tokens)], dim=2))
        projected = self.projections[level](read.transpose(1, 2).unflatten(2, features.shape[2:]))
        lateral: Tensor = self.laterals[level](self.resizes[level](projected))
        return lateral


@final
class _Fusion(nn.Module):
    """Add a map of the pyramid to the fused coarser ones, and enlarge the sum twice.

    Args:
        width: The channels.
        has_skip: Whether there is such a map; the coarsest has nothing to be added to.

    Shape: fused (B, width, h, w), lateral (B, width, h', w') -> (B, width, 2 h, 2 w).
    """

    def __init__(self, width: int, has_skip: bool) -> None:
        super().__init__()
        self.skip = _ResidualUnit(width) if has_skip else None
        self.refine = _ResidualUnit(width)
        self.project = conv1x1(width, width)

    def forward(self, fused: Tensor, lateral: Tensor | None) -> Tensor:
        if self.skip is not None and lateral is not None:
            if lateral.shape != fused.shape:  # of an odd h, half of it was rounded up
                lateral = F.interpolate(lateral, size=fused.shape[2:], mode="bilinear")
            fused = fused + self.skip(lateral)
        enlarged = F.interpolate(self.refine(fused), scale_factor=2, mode="bilinear", align_corners=True)
        return self.project(enlarged)  # type: ignore[no-any-return]


@final
class _ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, and a residual connection; without norms, it starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv3x3(width, width, padding=1, bias=False)
        self.second = conv3x3(width, width, padding=1, bias=False)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())  # type: ignore[no-any-return]
