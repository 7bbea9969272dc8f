"""Losses over labelled rows, and sums of losses over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from torchmetrics import MetricCollection

from brickyard.errors import BrickInputError


@final
class CrossEntropy(nn.Module):
    """Mean cross-entropy over the rows that have a label, in float32.

    Shape: logits (B, K), target (B,) int64 in [0, K), labelled (B,) bool or None for all -> a scalar. What stands in an
    unlabelled row of the target does not matter. Without any labelled row the loss is 0, with zero gradients.
    """

    def forward(self, logits: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        if target.device.type == "cpu" and not torch.compiler.is_compiling() and not target.is_floating_point():
            known = target if labelled is None else target[labelled]
            if known.numel() and not (known.min() >= 0 and known.max() < logits.shape[1]):
                found = f"{known.min()} to {known.max()}"
                raise BrickInputError("labels", f"classes in [0, {logits.shape[1]})", found)
        if labelled is None:
            return F.cross_entropy(logits.float(), target)
        losses = F.cross_entropy(logits.float(), torch.where(labelled, target, 0), reduction="none")
        return mean_over(losses, labelled)


@final
class BinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy with logits over the rows that have a label, in float32; for several classes a picture.

    Shape: logits (B, K), target (B, K) of 0 and 1, labelled (B,) bool or None for all -> a scalar.
    """

    def forward(self, logits: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        if labelled is not None:
            target = torch.where(labelled[:, None], target, 0)  # not only the loss: 0 * nan is nan in the gradient
        losses = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").mean(dim=1)
        return losses.mean() if labelled is None else mean_over(losses, labelled)


def mean_over(losses: Tensor, labelled: Tensor) -> Tensor:
    """The mean of the labelled rows' losses (B,); 0, still part of the graph, where no row (B,) bool is labelled."""
    kept = torch.where(labelled, losses, 0.0)
    return kept.sum() / labelled.sum().clamp(min=1)


@final
class WeightedSum(nn.Module):
    """Add the tasks' losses with fixed weights; a loss that is absent (None) is left out.

    Args:
        weights: One number a loss, in the order of the inputs.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights = tuple(weights)

    def forward(self, *losses: Tensor | None) -> Tensor:
        terms = [weight * loss for weight, loss in zip(self.weights, losses, strict=True) if loss is not None]
        return torch.stack(terms).sum()


@final
class UncertaintyWeighting(nn.Module):
    """Add the tasks' losses with weights that are learned: sum of exp(-s) * loss / 2 + s / 2, s a parameter a task.

    s is the logarithm of the task's noise variance, 0 at the start (Kendall et al. 2018,
    https://arxiv.org/abs/1705.07115). A loss that is absent (None) is left out.

    Args:
        count: How many losses.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(count))

    def forward(self, *losses: Tensor | None) -> Tensor:
        pairs = zip(self.log_variance, losses, strict=True)
        return torch.stack([(torch.exp(-s) * loss + s) / 2 for s, loss in pairs if loss is not None]).sum()


@final
class LabelledMetrics(MetricCollection):
    """Metrics over the rows that have a label.

    Each reads predictions (B, ...), targets (B, ...) and, where some rows are unlabelled, labelled (B,) bool.
    """

    def update(  # type: ignore[override]
        self, preds: Tensor, target: Tensor, labelled: Tensor | None = None
    ) -> None:
        preds, target = _labelled_rows(preds, target, labelled)
        if len(target):
            super().update(preds, target)

    def forward(self, preds: Tensor, target: Tensor, labelled: Tensor | None = None) -> dict[str, Any]:
        preds, target = _labelled_rows(preds, target, labelled)
        return super().forward(preds, target) if len(target) else {}


def _labelled_rows(preds: Tensor, target: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor]:
    return (preds, target) if labelled is None else (preds[labelled], target[labelled])
