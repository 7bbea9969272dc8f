"""Heads for semantic segmentation: from feature maps to logits at the stride of the finest map that a head uses.

Heads on a pyramid take two maps or more (B, channels[i], h_i, w_i), fine to coarse. They resize by the actual sizes of
the maps, because the maps of some backbones do not have the size of the image divided by the stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from brickyard.parts.blocks import conv1x1, conv1x1_bn_act, conv3x3, conv3x3_bn_act
from brickyard.parts.tower import PyramidTower


@final
class FPNSegmentation(nn.Module):
    """A light feature pyramid network with separable convolutions, whose levels are summed at the finest one.

    After the semantic branch of panoptic feature pyramid networks (Kirillov et al. 2019,
    https://arxiv.org/abs/1901.02446).

    Args:
        channels: The channels of the pyramid's maps.
        strides: The strides of the pyramid's maps; maps with a stride below 4 are not used.
        num_classes: K.
        width: The hidden channels.

    Shape: the pyramid -> (B, K, h, w) with the size of the finest map used.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.first = finest_level(strides, at_least=4)
        self.laterals = nn.ModuleList(conv1x1_bn_act(c, width, bias=False) for c in channels[self.first :])
        self.levels = nn.ModuleList(_separable(width, width) for _ in channels[self.first :])
        self.classifier = conv1x1(width, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [lateral(x) for lateral, x in zip(self.laterals, features[self.first :], strict=True)]
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + _resized(maps[level + 1], like=maps[level])
        summed = self.levels[0](maps[0])
        for smooth, x in zip(self.levels[1:], maps[1:], strict=True):
            summed = summed + _resized(smooth(x), like=summed)
        return self.classifier(summed)  # type: ignore[no-any-return]


def segmentation_fcn(in_channels: int, num_classes: int) -> nn.Module:
    """Create torchvision's FCN head (Long et al. 2015, https://arxiv.org/abs/1411.4038).

    torchvision uses it on a map of stride 8, which many timm backbones have with `output_stride=8`.

    Shape: (B, in_channels, h, w) -> (B, K, h, w).
    """
    head: nn.Module = FCNHead(in_channels, num_classes)
    return head


def segmentation_deeplabv3(in_channels: int, num_classes: int) -> nn.Module:
    """Create torchvision's DeepLabV3 head (Chen et al. 2017, https://arxiv.org/abs/1706.05587), for any batch size.

    torchvision uses it on a map of stride 8, which many timm backbones have with `output_stride=8`.

    Shape: (B, in_channels, h, w) -> (B, K, h, w).
    """
    head: nn.Module = DeepLabHead(in_channels, num_classes)
    _pool_any_batch(head)
    return head


@final
class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ head: torchvision's ASPP on the last map, refined with a fine map by separable convolutions.

    Source: Chen et al. 2018, https://arxiv.org/abs/1802.02611.

    Args:
        channels: The channels of the pyramid's maps.
        strides: The strides of the pyramid's maps; the fine map is the first of stride 4 or more.
        num_classes: K.

    Shape: the pyramid -> (B, K, h, w) with the size of the fine map.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.fine = finest_level(strides, at_least=4)
        self.pooling = ASPP(channels[-1], atrous_rates=(6, 12, 18), out_channels=256)
        _pool_any_batch(self.pooling)
        self.reduce = conv1x1_bn_act(channels[self.fine], 48, bias=False)
        self.refine = nn.Sequential(_separable(256 + 48, 256), _separable(256, 256))
        self.classifier = conv1x1(256, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fine = self.reduce(features[self.fine])
        coarse = _resized(self.pooling(features[-1]), like=fine)
        return self.classifier(self.refine(torch.cat((coarse, fine), dim=1)))  # type: ignore[no-any-return]


@final
class LRASPP(nn.Module):
    """torchvision's LR-ASPP head (Howard et al. 2019, https://arxiv.org/abs/1905.02244), for mobile backbones.

    Args:
        channels: The channels of the pyramid's maps.
        strides: The strides of the pyramid's maps; the fine map is the first of stride 8 or more.
        num_classes: K.
        width: The hidden channels.

    Shape: the pyramid -> (B, K, h, w) with the size of the fine map.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.fine = finest_level(strides, at_least=8)
        self.head = LRASPPHead(channels[self.fine], channels[-1], num_classes, width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.head({"low": features[self.fine], "high": features[-1]})  # type: ignore[no-any-return]


@final
class SegFormerMLP(nn.Module):
    """SegFormer's MLP head: a linear layer per level, and one on their concatenation.

    Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203.

    Args:
        channels: The channels of the pyramid's maps.
        strides: The strides of the pyramid's maps; maps with a stride below 4 are not used.
        num_classes: K.
        width: The hidden channels; 256 for the small and 768 for the large models of the paper.

    Shape: the pyramid -> (B, K, h, w) with the size of the finest map used.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.first = finest_level(strides, at_least=4)
        self.linears = nn.ModuleList(conv1x1(c, width) for c in channels[self.first :])
        self.fuse = conv1x1_bn_act(width * len(self.linears), width, bias=False)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), conv1x1(width, num_classes))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [linear(x) for linear, x in zip(self.linears, features[self.first :], strict=True)]
        resized = [_resized(x, like=maps[0]) for x in reversed(maps)]
        return self.classifier(self.fuse(torch.cat(resized, dim=1)))  # type: ignore[no-any-return]


@final
class TowerSegmentation(nn.Module):
    """A `PyramidTower` at stride 8, refined with a fine map as in DeepLabV3+.

    Most of the computation is at stride 8, where it costs a quarter of that at stride 4 and has twice the receptive
    field. This suits small objects whose parts can only be classified in the context of the whole object.

    Args:
        channels: The channels of the pyramid's maps.
        strides: The strides of the pyramid's maps; the tower starts at the first of stride 8 or more, the fine map is
            the first of stride 4 or more.
        num_classes: K.
        width: The channels of the tower; the fine map has half as many.
        depth: The number of residual blocks of the tower.

    Shape: the pyramid -> (B, K, h, w) with the size of the fine map.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 64, depth: int = 2
    ) -> None:
        super().__init__()
        half = width // 2
        self.fine, self.first = finest_level(strides, at_least=4), finest_level(strides, at_least=8)
        self.tower = PyramidTower(channels[self.first :], width, depth)
        self.narrow = conv1x1_bn_act(width, half, bias=False)
        self.reduce = conv1x1_bn_act(channels[self.fine], half, bias=False)
        self.refine = nn.Sequential(*(conv3x3_bn_act(c, half, padding=1, bias=False) for c in (2 * half, half)))
        self.classifier = conv1x1(half, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fine = self.reduce(features[self.fine])
        coarse = _resized(self.narrow(self.tower(features[self.first :])), like=fine)
        return self.classifier(self.refine(torch.cat((coarse, fine), dim=1)))  # type: ignore[no-any-return]


@final
class UNet(nn.Module):
    """U-Net decoder (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) with a skip connection from every map.

    Each step resizes to the next finer map, concatenates it and applies two 3x3 convolutions with batch norm.

    Args:
        channels: The channels of the pyramid's maps.
        strides: The strides of the pyramid's maps; all maps are used.
        num_classes: K.
        width: The channels of the first step; they are halved at each step, down to 16.

    Shape: the pyramid -> (B, K, h, w) with the size of the finest map.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        in_channels = channels[-1]
        for step, skip_channels in enumerate(reversed(channels[:-1])):
            out_channels = max(width >> step, 16)
            self.steps.append(_UNetStep(in_channels, skip_channels, out_channels))
            in_channels = out_channels
        self.classifier = conv1x1(in_channels, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[-1]
        for step, skip in zip(self.steps, reversed(features[:-1]), strict=True):
            x = step(x, skip)
        return self.classifier(x)  # type: ignore[no-any-return]


@final
class _UNetStep(nn.Module):
    """Merge a coarse map with a skip connection: (B, C, h, w), (B, skip, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = conv3x3_bn_act(in_channels + skip_channels, out_channels, padding=1, bias=False)
        self.second = conv3x3_bn_act(out_channels, out_channels, padding=1, bias=False)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        finer = F.interpolate(coarse, size=skip.shape[-2:], mode="nearest")
        return self.second(self.first(torch.cat((finer, skip), dim=1)))  # type: ignore[no-any-return]


@final
class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm for pooled maps (B, C, 1, 1), which uses the running statistics when training with batch size 1.

    There, each channel has a single value without a variance, for which `nn.BatchNorm2d` raises.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def _pool_any_batch(head: nn.Module) -> None:
    """Make the image pooling of torchvision's ASPP in `head` trainable with batch size 1. Parameter names stay."""
    pooling = next(module for module in head.modules() if isinstance(module, ASPP)).convs[-1]
    pooling[2] = PooledBatchNorm2d(pooling[2].num_features)


def finest_level(strides: Sequence[int], at_least: int) -> int:
    """Return the first level with a stride of `at_least`, excluding the last level.

    Example:
        >>> finest_level([2, 4, 8, 16], at_least=4)
        1
    """
    levels = [level for level, stride in enumerate(strides[:-1]) if stride >= at_least]
    return levels[0] if levels else max(len(strides) - 2, 0)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _separable(channels: int, out: int) -> nn.Module:
    """Create a depthwise 3x3 convolution followed by a 1x1 convolution with batch norm and ReLU."""
    depthwise = conv3x3(channels, channels, padding=1, groups=channels, bias=False)
    return nn.Sequential(depthwise, conv1x1_bn_act(channels, out, bias=False))
