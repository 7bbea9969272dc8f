"""Parts of image classification: heads, what they predict, metrics."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score


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


def classification_metrics(num_classes: int) -> MetricCollection:
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
    return MetricCollection(metrics)
