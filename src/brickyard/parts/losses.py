"""Losses and metrics over the labelled samples of a batch, and weighted sums of the losses of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from torchmetrics import MetricCollection


@final
class CrossEntropy(nn.Module):
    """Mean cross-entropy over the labelled samples, computed in float32.

    Args:
        label_smoothing: The part of each target that is spread evenly over all classes, in [0, 1).

    Shape: logits (B, K), target (B,) int64 in [0, K), labelled (B,) bool or None for all -> a scalar. The target of an
    unlabelled sample may have any value. If no sample is labelled, the loss and its gradients are 0.

    Example:
        >>> logits, target = torch.zeros(3, 2), torch.tensor([0, 1, -1])
        >>> CrossEntropy()(logits, target, labelled=torch.tensor([True, True, False]))
        tensor(0.6931)
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def extra_repr(self) -> str:
        return cross_entropy_formula(self.label_smoothing)

    def forward(self, logits: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        smoothing = self.label_smoothing
        if labelled is None:
            return F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
        target = torch.where(labelled, target, 0)
        losses = F.cross_entropy(logits.float(), target, reduction="none", label_smoothing=smoothing)
        return mean_over(losses, labelled)


def cross_entropy_formula(label_smoothing: float) -> str:
    """Describe a cross-entropy."""
    return f"cross-entropy with label smoothing {label_smoothing}" if label_smoothing else "cross-entropy"


@final
class BinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy with logits over the labelled samples, for multi-label targets, computed in float32.

    Shape: logits (B, K), target (B, K) of 0 and 1, labelled (B,) bool or None for all -> a scalar.
    """

    def extra_repr(self) -> str:
        return "binary cross-entropy, mean over classes"

    def forward(self, logits: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        if labelled is not None:
            target = torch.where(
                labelled[:, None], target, 0
            )  # masking only the loss would leave nan in the gradient: 0 * nan
        losses = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").mean(dim=1)
        return losses.mean() if labelled is None else mean_over(losses, labelled)


def mean_over(losses: Tensor, labelled: Tensor) -> Tensor:
    """Average losses (B,) over the labelled samples (B,) bool; 0, connected to the graph, if none is labelled."""
    masked = torch.where(labelled, losses, 0.0)
    return masked.sum() / labelled.sum().clamp(min=1)


@final
class WeightedSum(nn.Module):
    """Sum the losses of several tasks with fixed weights. Absent losses (None) are ignored.

    Args:
        weights: The weight of each loss, in the order of the inputs.

    Example:
        >>> WeightedSum([1.0, 0.5])(torch.tensor(2.0), torch.tensor(4.0))
        tensor(4.)
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights = tuple(weights)

    def extra_repr(self) -> str:
        return f"weights={self.weights}"

    def forward(self, *losses: Tensor | None) -> Tensor:
        terms = [weight * loss for weight, loss in zip(self.weights, losses, strict=True) if loss is not None]
        return torch.stack(terms).sum()


@final
class UncertaintyWeighting(nn.Module):
    """Sum the losses of several tasks with learned weights: exp(-s) * loss / 2 + s / 2, with a parameter s per task.

    s is the logarithm of the task's noise variance, initialised to 0 (Kendall et al. 2018,
    https://arxiv.org/abs/1705.07115). Absent losses (None) are ignored.

    Args:
        count: The number of losses.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(count))

    def extra_repr(self) -> str:
        return "learned weights"

    def forward(self, *losses: Tensor | None) -> Tensor:
        pairs = zip(self.log_variance, losses, strict=True)
        return torch.stack([(torch.exp(-s) * loss + s) / 2 for s, loss in pairs if loss is not None]).sum()


@final
class LabelledMetrics(MetricCollection):
    """A collection of metrics over the labelled samples.

    `update` takes predictions (B, ...), targets (B, ...) and optionally labelled (B,) bool.
    """

    def update(  # type: ignore[override]
        self, preds: Tensor, target: Tensor, labelled: Tensor | None = None
    ) -> None:
        preds, target = _labelled_samples(preds, target, labelled)
        if len(target):
            super().update(preds, target)

    def forward(self, preds: Tensor, target: Tensor, labelled: Tensor | None = None) -> dict[str, Any]:
        preds, target = _labelled_samples(preds, target, labelled)
        return super().forward(preds, target) if len(target) else {}


def _labelled_samples(preds: Tensor, target: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor]:
    return (preds, target) if labelled is None else (preds[labelled], target[labelled])
