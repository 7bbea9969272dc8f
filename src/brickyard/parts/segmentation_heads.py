"""Heads of semantic segmentation: from feature maps to logits at the stride of the finest map that a head reads.

Those that read a pyramid take maps (B, channels[i], h_i, w_i), fine to coarse, at least two. They go by the sizes that
the maps have, never by their strides: those of some backbones are not the image's size over the stride.
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
    """A light feature pyramid whose levels are summed at the finest one (Kirillov et al. 2019, panoptic feature
    pyramid networks, https://arxiv.org/abs/1901.02446), with separable convolutions.

    Args:
        channels: Of the pyramid's maps.
        strides: Of the pyramid's maps; those below 4 are not read, they cost most and tell least.
        num_classes: K.
        width: Channels inside.

    Shape: the pyramid -> (B, K, h, w) of its finest map that is read.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.first = finest_level(strides, at_least=4)
        self.laterals = nn.ModuleList(conv1x1_bn_act(c, width, bias=False) for c in channels[self.first :])
        self.levels = nn.ModuleList(_separable(width, width) for _ in channels[self.first :])
        self.classifier = conv1x1(width, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [lateral(each) for lateral, each in zip(self.laterals, features[self.first :], strict=True)]
        for level in range(len(maps) - 2, -1, -1):
            maps[level] = maps[level] + _resized(maps[level + 1], like=maps[level])
        summed = self.levels[0](maps[0])
        for smooth, each in zip(self.levels[1:], maps[1:], strict=True):
            summed = summed + _resized(smooth(each), like=summed)
        return self.classifier(summed)  # type: ignore[no-any-return]


def segmentation_fcn(in_channels: int, num_classes: int) -> nn.Module:
    """torchvision's FCN head (Long et al. 2015, https://arxiv.org/abs/1411.4038).

    torchvision puts it on a map of stride 8, which many of timm's backbones give with the option `output_stride=8`.

    Shape: (B, in_channels, h, w) -> (B, K, h, w).
    """
    head: nn.Module = FCNHead(in_channels, num_classes)
    return head


def segmentation_deeplabv3(in_channels: int, num_classes: int) -> nn.Module:
    """torchvision's DeepLabV3 head (Chen et al. 2017, https://arxiv.org/abs/1706.05587), at any batch size.

    As with `segmentation_fcn`, `output_stride=8` gives it a fine map.

    Shape: (B, in_channels, h, w) -> (B, K, h, w).
    """
    head: nn.Module = DeepLabHead(in_channels, num_classes)
    _pool_any_batch(head)
    return head


@final
class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ (Chen et al. 2018, https://arxiv.org/abs/1802.02611): atrous pooling of the last map, refined with a
    fine one by separable convolutions; the pooling is torchvision's.

    Args:
        channels: Of the pyramid's maps.
        strides: Of the pyramid's maps; the fine one is the first of stride 4 or more.
        num_classes: K.

    Shape: the pyramid -> (B, K, h, w) of its fine map.
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
    """torchvision's LR-ASPP head (Howard et al. 2019, https://arxiv.org/abs/1905.02244), for fast models.

    Args:
        channels: Of the pyramid's maps.
        strides: Of the pyramid's maps; the fine one is the first of stride 8 or more.
        num_classes: K.
        width: Channels inside.

    Shape: the pyramid -> (B, K, h, w) of its fine map.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.fine = finest_level(strides, at_least=8)
        self.head = LRASPPHead(channels[self.fine], channels[-1], num_classes, width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.head({"low": features[self.fine], "high": features[-1]})  # type: ignore[no-any-return]


@final
class SegFormerMLP(nn.Module):
    """SegFormer's head (Xie et al. 2021, https://arxiv.org/abs/2105.15203): a linear layer a level, and one over all.

    Args:
        channels: Of the pyramid's maps.
        strides: Of the pyramid's maps; those below 4 are not read.
        num_classes: K.
        width: Channels inside; the paper has 256 for its small models and 768 for its large ones.

    Shape: the pyramid -> (B, K, h, w) of its finest map that is read.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.first = finest_level(strides, at_least=4)
        self.linears = nn.ModuleList(conv1x1(c, width) for c in channels[self.first :])
        self.fuse = conv1x1_bn_act(width * len(self.linears), width, bias=False)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), conv1x1(width, num_classes))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps = [linear(each) for linear, each in zip(self.linears, features[self.first :], strict=True)]
        resized = [_resized(each, like=maps[0]) for each in reversed(maps)]
        return self.classifier(self.fuse(torch.cat(resized, dim=1)))  # type: ignore[no-any-return]


@final
class TowerSegmentation(nn.Module):
    """Classes from a `PyramidTower` at stride 8, outlines from a fine map: joined there as in DeepLabV3+.

    Most of the work is done where a cell costs a quarter of one at stride 4 and sees twice as far, which suits things
    of a few cells: their parts are told apart only by what the whole is.

    Args:
        channels: Of the pyramid's maps.
        strides: Of the pyramid's maps; the tower is on the first of stride 8 or more, the fine map is the first of
            stride 4 or more.
        num_classes: K.
        width: Channels of the tower, and twice those of the fine map.
        depth: Residual blocks of the tower.

    Shape: the pyramid -> (B, K, h, w) of its fine map.
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
    """U-Net's decoder (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) with a skip from every map.

    Each step resizes to the next finer map, puts that beside, and applies two 3x3 convolutions with batch norm.

    Args:
        channels: Of the pyramid's maps.
        strides: Of the pyramid's maps; all of them are read.
        num_classes: K.
        width: Channels of the first step; each step has half of those before, at least 16.

    Shape: the pyramid -> (B, K, h, w) of its finest map.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        below = channels[-1]
        for step, skip in enumerate(reversed(channels[:-1])):
            out = max(width >> step, 16)
            self.steps.append(_UNetStep(below, skip, out))
            below = out
        self.classifier = conv1x1(below, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        each = features[-1]
        for step, skip in zip(self.steps, reversed(features[:-1]), strict=True):
            each = step(each, skip)
        return self.classifier(each)  # type: ignore[no-any-return]


@final
class _UNetStep(nn.Module):
    """(B, below, h, w) and a finer (B, skip, H, W) -> (B, out, H, W), as in the second list of a `Residual`."""

    def __init__(self, below: int, skip: int, out: int) -> None:
        super().__init__()
        self.first = conv3x3_bn_act(below + skip, out, padding=1, bias=False)
        self.second = conv3x3_bn_act(out, out, padding=1, bias=False)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        finer = F.interpolate(coarse, size=skip.shape[-2:], mode="nearest")
        return self.second(self.first(torch.cat((finer, skip), dim=1)))  # type: ignore[no-any-return]


@final
class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of one value a channel and picture, that in training takes the running statistics of a single picture.

    One value has no variance: torch's own raises.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def _pool_any_batch(head: nn.Module) -> None:
    """Let the image pooling of torchvision's ASPP, inside `head`, train at batch 1; weights keep their names."""
    pooling = next(module for module in head.modules() if isinstance(module, ASPP)).convs[-1]
    pooling[2] = PooledBatchNorm2d(pooling[2].num_features)


def finest_level(strides: Sequence[int], at_least: int) -> int:
    """The first level of this stride or more, but never the last level."""
    found = [level for level, stride in enumerate(strides[:-1]) if stride >= at_least]
    return found[0] if found else max(len(strides) - 2, 0)


def _resized(each: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(each, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _separable(channels: int, out: int) -> nn.Module:
    """A 3x3 convolution a channel, then a 1x1 one over channels with batch norm and ReLU."""
    depthwise = conv3x3(channels, channels, padding=1, groups=channels, bias=False)
    return nn.Sequential(depthwise, conv1x1_bn_act(channels, out, bias=False))
