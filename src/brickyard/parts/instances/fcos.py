"""A light FCOS head that predicts a mask or key points for each object, besides its class and box.

Boxes as in FCOS (Tian et al. 2019, https://arxiv.org/abs/1904.01355), masks as in YOLACT (Bolya et al. 2019,
https://arxiv.org/abs/1904.02689), key points by regression as in YOLO-Pose (Maji et al. 2022,
https://arxiv.org/abs/2204.06806). The convolutions are depthwise separable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.blocks import conv1x1, conv3x3
from brickyard.parts.detection.points import anchors_around, cell_centers, levels_from

FINEST = 4  # the stride of the prototypes, and of the finest map that is read
_FINEST_BOXES = 8  # the stride of the finest map with boxes
_EXTRA_MAPS = 2  # coarser than those of the backbone, for large objects
_GROUPS = 8  # of the group norms
_PRIOR = 0.01  # the initial probability of a class, as in RetinaNet
_INITIAL_DISTANCE = 2.0  # cells from a point to the sides of its box: within the range that a map is responsible for


@final
class InstanceFCOS(nn.Module):
    """FCOS with further outputs for each point: coefficients of prototype masks, key points, or both.

    The feature pyramid adds coarse maps to fine ones, as in `FeaturePyramidNetwork`; two maps beyond those of the
    backbone are subsampled from the last one. Two towers, one for classes and one for everything else, are shared by
    all maps. Prototypes are computed from the finest map of the pyramid and the backbone's map of stride 4.

    Args:
        channels: The channels of the backbone's maps, fine to coarse.
        strides: The strides of the backbone's maps, increasing.
        num_classes: K.
        num_prototypes: C, 0 for no masks.
        num_keypoints: J, 0 for no key points.
        width: The channels of the pyramid and the towers, divisible by 8.
        depth: The number of convolutions of each tower.

    Attributes:
        strides: The strides of the pyramid's maps.

    Shape: maps (B, C_i, H / s_i, W / s_i) and image (B, 3, H, W) -> logits (B, P, K); regression (B, P, 4), distances
    to the left, top, right and bottom in units of the cell size, above 0; centerness (B, P, 1), logits; anchors
    (B, P, 4), the cells; with prototypes, coefficients (B, P, C) in [-1, 1] and prototypes (B, C, h, w), not negative,
    of about a quarter of the image's size; with key points, points (B, P, J, 3): x and y relative to the centre of the
    box in units of its size, and the logit of the visibility.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        num_prototypes: int = 0,
        num_keypoints: int = 0,
        width: int = 96,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.num_keypoints = num_keypoints
        self.levels = levels_from(strides, _FINEST_BOXES)
        backbone_strides = [strides[level] for level in self.levels]
        self.strides = (*backbone_strides, *(backbone_strides[-1] * 2**extra for extra in range(1, _EXTRA_MAPS + 1)))
        self.laterals = nn.ModuleList(conv1x1(channels[level], width) for level in self.levels)
        self.smooth = nn.ModuleList(_separable(width) for _ in self.levels)
        self.class_tower = nn.Sequential(*(_separable(width) for _ in range(depth)))
        self.box_tower = nn.Sequential(*(_separable(width) for _ in range(depth)))
        self.logits = _last(width, num_classes, bias=-math.log((1 - _PRIOR) / _PRIOR))
        self.regression = _last(width, 4, bias=_INITIAL_DISTANCE)
        self.centerness = _last(width, 1)
        self.points = _last(width, 3 * num_keypoints) if num_keypoints else None
        self.coefficients = _last(width, num_prototypes) if num_prototypes else None
        self.prototypes = None
        if num_prototypes:
            finer = levels_from(strides, FINEST)[0]
            self.detail = finer if finer < self.levels[0] else None
            detail_channels = 0 if self.detail is None else channels[finer]
            scale = max(1, round(strides[self.levels[0]] / FINEST))
            self.prototypes = _Prototypes(width, detail_channels, num_prototypes, scale)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, ...]:
        maps = self._pyramid(features)
        classes, boxes = [self.class_tower(x) for x in maps], [self.box_tower(x) for x in maps]
        logits = _by_point(self.logits, classes)
        centers = cell_centers(maps, self.strides, image.shape[-2:], len(self.levels))
        anchors = anchors_around(centers, [[(stride, stride)] for stride in self.strides])
        outputs = [
            logits,
            F.softplus(_by_point(self.regression, boxes)),
            _by_point(self.centerness, boxes),
            anchors.expand(logits.shape[0], -1, -1),
        ]
        if self.coefficients is not None and self.prototypes is not None:
            detail = None if self.detail is None else features[self.detail]
            outputs += [_by_point(self.coefficients, boxes).tanh(), self.prototypes(maps[0], detail)]
        if self.points is not None:
            points = _by_point(self.points, boxes)
            outputs.append(points.reshape(*points.shape[:2], self.num_keypoints, 3))
        return tuple(outputs)

    def _pyramid(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = [lateral(features[level]) for lateral, level in zip(self.laterals, self.levels, strict=True)]
        for index in range(len(maps) - 2, -1, -1):
            maps[index] = maps[index] + _resized(maps[index + 1], maps[index])
        maps = [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)]
        for _ in range(_EXTRA_MAPS):
            maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
        return maps


@final
class _Prototypes(nn.Module):
    """Prototype masks: (B, width, h, w) and optionally a finer map (B, channels, n h, n w) -> (B, C, n h, n w)."""

    def __init__(self, width: int, channels: int, count: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.coarse = _separable(width)
        self.lateral = conv1x1(channels, width) if channels else None
        self.fine = nn.Sequential(_separable(width), _separable(width))
        self.last = conv1x1(width, count)

    def forward(self, coarse: Tensor, detail: Tensor | None) -> Tensor:
        x = self.coarse(coarse)
        if self.lateral is not None and detail is not None:
            x = self.lateral(detail) + _resized(x, detail, mode="bilinear")
        elif self.scale > 1:
            x = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return F.relu(self.last(self.fine(x)))


def _separable(width: int) -> nn.Sequential:
    """Create a depthwise 3x3 convolution, a 1x1 convolution, a group norm and ReLU."""
    depthwise = conv3x3(width, width, padding=1, groups=width, bias=False)
    return nn.Sequential(depthwise, conv1x1(width, width, bias=False), nn.GroupNorm(_GROUPS, width), nn.ReLU())


def _last(width: int, out: int, bias: float = 0.0) -> nn.Conv2d:
    convolution = conv1x1(width, out)
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.constant_(convolution.bias, bias)  # type: ignore[arg-type]
    return convolution


def _by_point(layer: nn.Module, maps: Sequence[Tensor]) -> Tensor:
    """Apply a layer to each map and list its outputs by point, (B, P, C)."""
    return torch.cat([layer(x).flatten(2).transpose(1, 2) for x in maps], dim=1)


def _resized(x: Tensor, like: Tensor, mode: str = "nearest") -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode=mode)
