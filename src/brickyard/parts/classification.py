"""Parts of image classification: heads, what they predict, metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAveragePrecision,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from brickyard.parts.blocks import conv1x1
from brickyard.parts.detection.points import levels_from
from brickyard.parts.losses import LabelledMetrics
from brickyard.parts.tower import PyramidTower

FINEST = 8  # the stride of the map that `SpatialMaxClassifier` scores
_PRIOR = 0.05  # the probability of each class at each place to begin with: the highest of hundreds shall not be near 1


@final
class ImageClassifier(nn.Module):
    """Global average pooling, a linear layer, and what follows from its logits.

    Args:
        num_classes: K.
        n_features: Channels of the features, C.
        use_average_pooling: False for features (B, C) that are pooled already.

    Shape: (B, C, H, W) -> logits (B, K), probabilities (B, K), class_prediction (B,) int64.
    """

    def __init__(self, num_classes: int, n_features: int, use_average_pooling: bool = True) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1) if use_average_pooling else nn.Identity()
        self.fc = nn.Linear(n_features, num_classes)
        self.predict = ClassPrediction()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.fc(torch.flatten(self.pool(features), 1))
        return logits, *self.predict(logits)


@final
class ClassPrediction(nn.Module):
    """Logits (B, K) -> probabilities (B, K), in [0, 1] and summing to 1, and class_prediction (B,) int64."""

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.softmax(dim=1), logits.argmax(dim=1)


@final
class MultilabelPrediction(nn.Module):
    """Logits (B, K) -> probabilities (B, K), each in [0, 1], and class_prediction (B, K) bool: above one half."""

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.sigmoid(), logits > 0


@final
class AttentionClassifier(nn.Module):
    """A learned query attends to every cell of the feature map, and a linear layer reads what it found.

    timm's `AttentionPoolLatent`, the pooling of SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343).

    Args:
        in_channels: C.
        num_classes: K.

    Shape: (B, C, H, W) of any size -> logits (B, K).
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        heads = next(heads for heads in (8, 4, 2, 1) if in_channels % heads == 0)
        self.pool = AttentionPoolLatent(in_channels, num_heads=heads, mlp_ratio=2.0)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(features.flatten(2).transpose(1, 2)))
        return logits


@final
class SpatialMaxClassifier(nn.Module):
    """Scores each class at every place of a fine map and takes its highest score.

    Labels of whole pictures are enough to learn from (Oquab et al. 2015, "Is object localization for free?",
    https://doi.org/10.1109/CVPR.2015.7298668), also where a thing fills so little of the picture that a mean over all
    of it hardly changes. The map is that of a `PyramidTower`.

    Args:
        channels: Of the pyramid's maps, fine to coarse.
        strides: Of the pyramid's maps; the tower is on the first of stride 8 or more.
        num_classes: K.
        width: Channels of the tower.
        depth: Residual blocks of the tower.

    Shape: maps (B, channels[i], h_i, w_i) -> logits (B, K).
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 64, depth: int = 1
    ) -> None:
        super().__init__()
        self.levels = levels_from(strides, FINEST)
        self.tower = PyramidTower([channels[level] for level in self.levels], width, depth)
        self.score = conv1x1(width, num_classes)
        if self.score.bias is not None:
            nn.init.constant_(self.score.bias, math.log(_PRIOR / (1 - _PRIOR)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        scores = self.score(self.tower([features[level] for level in self.levels]))
        return scores.amax(dim=(2, 3))  # type: ignore[no-any-return]


def classification_metrics(num_classes: int) -> LabelledMetrics:
    """Accuracy over pictures, its mean over classes, macro F1, and top-5 accuracy from 6 classes on.

    Each reads predictions (B, K), logits or probabilities, and targets (B,) int64; by torchmetrics.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "Accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "MeanAccuracy": MulticlassAccuracy(num_classes, average="macro"),
        "F1": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["AccuracyTop5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    return LabelledMetrics(metrics)


def multilabel_metrics(num_classes: int) -> LabelledMetrics:
    """Macro F1, mean average precision, and the share of pictures with every class right.

    Each reads logits (B, K) and targets (B, K) of 0 and 1; by torchmetrics.
    """
    return LabelledMetrics(
        {
            "F1": MultilabelF1Score(num_classes, average="macro"),
            "MeanAveragePrecision": MultilabelAveragePrecision(num_classes, average="macro", thresholds=101),
            "ExactMatch": MultilabelExactMatch(num_classes),
        }
    )
