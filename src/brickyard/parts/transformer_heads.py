"""Linear heads on the blocks of a vision transformer, as DINOv2's (Oquab et al. 2023, https://arxiv.org/abs/2304.07193).

Maps are (B, C, h, w) and class tokens (B, C), one of each per block that a head reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.blocks import conv1x1

_SCALE = 4  # by which `LinearDepth` enlarges its logits
_EVEN = 0.1  # is added to the score of every bin, so that their sum is positive


@final
class TokenClassifier(nn.Module):
    """A linear layer on class tokens and the mean of the last map.

    Args:
        in_channels: C.
        num_classes: K.
        blocks: L, the number of class tokens.

    Shape: L class tokens and a map -> logits (B, K).
    """

    def __init__(self, in_channels: int, num_classes: int, blocks: int = 1) -> None:
        super().__init__()
        self.fc = nn.Linear((blocks + 1) * in_channels, num_classes)

    def forward(self, class_tokens: Sequence[Tensor], last: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.cat([*class_tokens, last.mean(dim=(2, 3))], dim=1))
        return logits


@final
class LinearSegmentation(nn.Module):
    """Batch norm and a 1x1 convolution on the concatenated maps.

    Args:
        in_channels: C.
        num_classes: K.
        blocks: L, the number of maps.

    Shape: L maps -> logits (B, K, h, w).
    """

    def __init__(self, in_channels: int, num_classes: int, blocks: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(blocks * in_channels)
        self.classifier = conv1x1(blocks * in_channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.norm(torch.cat([*features], dim=1)))
        return logits


@final
class LinearDepth(nn.Module):
    """Depth as the mean of equally spaced bins, scored by a 1x1 convolution on maps and class tokens.

    The normalisation of the scores is that of AdaBins (Bhat et al. 2021, https://arxiv.org/abs/2011.14141).

    Args:
        in_channels: C.
        blocks: L, the number of maps.
        bins: The number of bins.
        min_depth: The depth of the first bin, in the unit of the labels, such as metres.
        max_depth: The depth of the last bin.

    Shape: L maps and L class tokens -> depth (B, 1, 4 h, 4 w) in [min_depth, max_depth], float32.
    """

    def __init__(
        self, in_channels: int, blocks: int = 1, bins: int = 256, min_depth: float = 0.001, max_depth: float = 10.0
    ) -> None:
        super().__init__()
        self.min_depth, self.max_depth = min_depth, max_depth
        self.score = conv1x1(2 * blocks * in_channels, bins)

    def extra_repr(self) -> str:
        return f"depth in [{self.min_depth}, {self.max_depth}]"

    def forward(self, features: Sequence[Tensor], class_tokens: Sequence[Tensor]) -> Tensor:
        pairs = zip(features, class_tokens, strict=True)
        both = [part for map_, token in pairs for part in (map_, token[:, :, None, None].expand_as(map_))]
        # DINOv2 enlarges the maps before the convolution; both are linear, and bilinear weights sum to 1, so the order
        # does not matter, and this one takes a sixteenth of the multiplications.
        logits = F.interpolate(self.score(torch.cat(both, dim=1)), scale_factor=_SCALE, mode="bilinear")
        scores = logits.float().relu() + _EVEN
        bins = torch.linspace(self.min_depth, self.max_depth, scores.shape[1], device=scores.device)
        return torch.einsum("bkhw,k->bhw", scores / scores.sum(dim=1, keepdim=True), bins)[:, None]
