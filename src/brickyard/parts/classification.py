"""Parts for image classification: heads, predictions, metrics."""

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
_PRIOR = 0.05  # initial probability of each class in each cell; low, because the maximum over many cells is taken


@final
class ImageClassifier(nn.Module):
    """Global average pooling and a linear layer, with probabilities and predicted classes.

    Args:
        num_classes: K.
        n_features: C, the channels of the features.
        use_average_pooling: False for pooled features (B, C).

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
    """Convert logits to class probabilities by softmax and to the predicted class.

    Shape: logits (B, K) -> probabilities (B, K), which sum to 1, and class_prediction (B,) int64.
    """

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.softmax(dim=1), logits.argmax(dim=1)


@final
class MultilabelPrediction(nn.Module):
    """Convert logits to independent class probabilities by a sigmoid, with a threshold of 0.5 for the prediction.

    Shape: logits (B, K) -> probabilities (B, K) in [0, 1], and class_prediction (B, K) bool.
    """

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.sigmoid(), logits > 0


@final
class AttentionClassifier(nn.Module):
    """Attention pooling with a learned query, followed by a linear layer.

    The pooling is timm's `AttentionPoolLatent`, as in SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343).

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
    """Score each class in every cell of a fine feature map and take the maximum over the cells.

    It is trained with image-level labels (Oquab et al. 2015, "Is object localization for free?",
    https://doi.org/10.1109/CVPR.2015.7298668) and suits objects that cover a small part of the image, which average
    pooling would hide. The feature map is that of a `PyramidTower`.

    Args:
        channels: The channels of the pyramid's maps, fine to coarse.
        strides: The strides of the pyramid's maps; the tower starts at the first of stride 8 or more.
        num_classes: K.
        width: The channels of the tower.
        depth: The number of residual blocks of the tower.

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
    """Create accuracy, class-averaged accuracy, macro F1 and, for 6 classes or more, top-5 accuracy (torchmetrics).

    They take predictions (B, K), logits or probabilities, targets (B,) int64 and optionally labelled (B,) bool.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "Accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "MeanAccuracy": MulticlassAccuracy(num_classes, average="macro"),
        "F1": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["AccuracyTop5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    return LabelledMetrics(metrics)


@final
class PresentF1(MultilabelF1Score):
    """Macro F1 over the classes that are in the predictions or the targets, as torchmetrics' multi-class F1.

    Args:
        num_labels: K.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="none", validate_args=False, zero_division=float("nan"))

    def compute(self) -> Tensor:
        return super().compute().nanmean()


@final
class PresentAveragePrecision(MultilabelAveragePrecision):
    """Mean average precision over the classes that are in the targets; for the others it is not defined.

    Args:
        num_labels: K.
    """

    confmat: Tensor  # (thresholds, K, 2, 2), the second last dimension is the target

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="none", thresholds=101, validate_args=False)

    def compute(self) -> Tensor:  # type: ignore[override]
        is_present = self.confmat[0, :, 1].sum(dim=-1) > 0
        return torch.where(is_present, super().compute(), torch.nan).nanmean()


def multilabel_metrics(num_classes: int) -> LabelledMetrics:
    """Create macro F1, mean average precision and exact match, the fraction of images with all classes correct.

    They are torchmetrics' and take logits (B, K), targets (B, K) of 0 and 1 and optionally labelled (B,) bool. Classes
    that do not occur are left out of the means, which are nan if none occurs.
    """
    return LabelledMetrics(  # validate_args would refuse a single class
        {
            "F1": PresentF1(num_classes),
            "MeanAveragePrecision": PresentAveragePrecision(num_classes),
            "ExactMatch": MultilabelExactMatch(num_classes, validate_args=False),
        }
    )
