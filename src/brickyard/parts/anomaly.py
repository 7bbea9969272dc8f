"""Parts for anomaly detection, after SimpleNet: a discriminator of features and features with noise, loss, decoding.

SimpleNet (Liu et al. 2023, https://arxiv.org/abs/2303.15140) learns from normal images only: a small network tells the
features of a frozen backbone from the same features with Gaussian noise added; where it takes the features of an image
for noise, there is an anomaly. Two things differ from the paper, so that the method suits every backbone. Each channel
of the features is standardised by its mean and variance over the normal images, so that one amount of noise suits them
all. And nothing before the noise is trained: the paper's linear adaptor would lower the loss by mapping all features to
few directions, which hides anomalies, and so would a backbone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.blocks import conv1x1
from brickyard.parts.losses import mean_over

STRIDES = (8, 16)  # of the feature maps, as in the paper; deeper ones are too coarse and too close to the classes
_NEIGHBOURHOOD = 3  # cells over which features are averaged, as in the paper
_SLOPE = 0.2  # of the leaky ReLU, as in the paper
_MARGIN = 0.5  # of the hinge loss, as in the paper
_SHARPNESS = 4.0  # of the sigmoid: scores are 0.12 and 0.88 at the margins


def anomaly_levels(strides: Sequence[int]) -> list[int]:
    """Return the indices of the maps that `SimpleNet` reads: the deepest of each stride from about 8 to about 16.

    A stride may differ by a factor below the square root of two. Of maps of a single stride, such as those of a ViT,
    these are the one in the middle and the last one. Without a map in the range it is the deepest one.

    Example:
        >>> anomaly_levels([2, 4, 8, 16, 32]), anomaly_levels([16] * 12)
        ([2, 3], [5, 11])
    """
    if len(set(strides)) == 1:
        return sorted({(len(strides) - 1) // 2, len(strides) - 1})
    low, high = STRIDES
    deepest = {stride: level for level, stride in enumerate(strides)}
    chosen = [level for stride, level in deepest.items() if 2 * stride**2 > low**2 and stride**2 < 2 * high**2]
    return sorted(chosen) or [len(strides) - 1]


@final
class SimpleNet(nn.Module):
    """Discriminator of normal features: higher values are more normal.

    Features are averaged over 3 x 3 cells, resized to the finest map, concatenated, detached, and standardised by batch
    norm without weights; two 1 x 1 convolutions follow. The loss has no gradient for the backbone.

    Args:
        channels: The channels of the backbone's maps.
        strides: The strides of the backbone's maps; those of `anomaly_levels` are read.
        width: The hidden channels.

    Attributes:
        levels: The indices of the maps that are read.

    Shape: maps (B, C_i, H / s_i, W / s_i), and noise (B, C, h, w) or None, C the channels of the maps that are read and
    h x w the largest of them -> logits (B, 1, h, w), or with noise (B, 2, h, w), the second one of the noisy features.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int = 128) -> None:
        super().__init__()
        self.levels = anomaly_levels(strides)
        total = sum(channels[level] for level in self.levels)
        self.standardize = nn.BatchNorm2d(total, affine=False)
        self.hidden = nn.Sequential(conv1x1(total, width), nn.BatchNorm2d(width), nn.LeakyReLU(_SLOPE))
        self.classifier = nn.Conv2d(width, 1, 1, bias=False)

    def forward(self, features: Sequence[Tensor], noise: Tensor | None = None) -> Tensor:
        cells = self.standardize(_merged([features[level] for level in self.levels]))
        if noise is None:
            return self.classifier(self.hidden(cells))  # type: ignore[no-any-return]
        both = self.classifier(self.hidden(torch.cat([cells, cells + noise])))
        return torch.cat(both.chunk(2), dim=1)


@final
class FeatureNoise(nn.Module):
    """Gaussian noise for the standardised features of `SimpleNet`.

    In training it is drawn from torch's global generator of the device, whose state checkpoints hold. In evaluation it
    is the same in every call and for every image, so that losses can be compared and no random number is drawn.

    Args:
        levels: The indices of the maps that `SimpleNet` reads.
        sigma: The standard deviation of the noise, in units of that of each channel.

    Shape: maps (B, C_i, h_i, w_i) -> (B, C, h, w), see `SimpleNet`.
    """

    def __init__(self, levels: Sequence[int], sigma: float = 0.5) -> None:
        super().__init__()
        self.levels = list(levels)
        self.sigma = sigma

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [features[level] for level in self.levels]
        finest = max(maps, key=lambda map_: map_.shape[-1])
        channels = sum(map_.shape[1] for map_ in maps)
        if self.training:
            noise = torch.randn_like(finest[:, :1].expand(-1, channels, -1, -1))
        else:
            noise = _fixed_noise((channels, *finest.shape[-2:]), finest).expand(len(finest), -1, -1, -1)
        return noise * self.sigma


@final
class AnomalyLoss(nn.Module):
    """Hinge loss of `SimpleNet`: normal features above a margin of 0.5, and features with noise below -0.5.

    It is averaged over cells and labelled images. Only normal images teach: an anomalous image has a loss and a
    gradient of 0.

    Shape: logits (B, 2, h, w), of the features and of those with noise; target (B,) int64, 0 for normal and 1 for
    anomalous; labelled (B,) bool or None for all -> a scalar. If no image is labelled, the loss and its gradients are
    0.
    """

    def extra_repr(self) -> str:
        return "hinge loss of normal features against noisy ones"

    def forward(self, logits: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        clean, noisy = logits.float().unbind(dim=1)
        losses = (F.relu(_MARGIN - clean) + F.relu(_MARGIN + noisy)).mean(dim=(1, 2))
        rows = torch.ones_like(target, dtype=torch.bool) if labelled is None else labelled
        return mean_over(torch.where(target == 0, losses, 0.0), rows)


@final
class AnomalyDecode(nn.Module):
    """Decode the logits of `SimpleNet` to an anomaly map and a score of the image, its maximum.

    The values are sigmoid(-4 * logit): 0.12 and less is normal beyond the margin of the loss, 0.5 is the threshold
    between normal features and noise, and 0.88 and more is anomalous beyond the margin.

    Shape: logits (B, 1 or 2, h, w) and image (B, C, H, W) -> map (B, H, W) and score (B,), float32 in [0, 1].
    """

    def forward(self, logits: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.sigmoid(-_SHARPNESS * logits[:, :1].float())
        resized = F.interpolate(values, size=image.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return resized, resized.amax(dim=(1, 2))


def _merged(maps: Sequence[Tensor]) -> Tensor:
    """Average maps over neighbouring cells, resize them to the finest one and concatenate them, detached."""
    size = max((map_.shape[-2:] for map_ in maps), key=lambda size: size[-1])
    smooth = [
        F.avg_pool2d(map_.detach(), _NEIGHBOURHOOD, stride=1, padding=_NEIGHBOURHOOD // 2, count_include_pad=False)
        for map_ in maps
    ]
    resized = [
        map_ if map_.shape[-2:] == size else F.interpolate(map_, size=size, mode="bilinear", align_corners=False)
        for map_ in smooth
    ]
    return torch.cat(resized, dim=1)


def _fixed_noise(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal noise of a shape that depends on the index of each element only.

    The index is hashed by the finalizer of MurmurHash3 (https://github.com/aappleby/smhasher), 32 bits, which is
    computed on every device, and without a generator, which compilers do not trace.
    """
    mask = 0xFFFFFFFF
    bits = torch.arange(math.prod(shape), device=like.device) + 1
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = ((bits ^ (bits >> shift)) * factor) & mask
    bits = bits ^ (bits >> 16)
    uniform = ((bits >> 8).float() + 0.5) / 2**24  # in (0, 1)
    normal = torch.erfinv(2 * uniform - 1) * math.sqrt(2)
    return normal.view(*shape).to(like.dtype)
