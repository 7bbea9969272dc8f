"""Parts for metric learning: a projection to unit vectors, loss, metrics."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from brickyard.parts.losses import LabelledMetrics, mean_over
from brickyard.parts.metric_state import BaseMetric, MetricState

_NEIGHBOURS = (1, 5)
_CHUNK = 1024  # queries at a time, to limit the memory for distances
_LOG_ZERO = -1e9  # instead of -inf, whose gradients would be nan


@final
class UnitVector(nn.Module):
    """Project a pooled vector to a unit vector, computed in float32.

    Args:
        in_features: E.
        out_features: D.
        hidden: The width of a hidden layer with ReLU; None for a single linear layer.

    Shape: (B, E) -> (B, D) of length 1.
    """

    def __init__(self, in_features: int, out_features: int, hidden: int | None = None) -> None:
        super().__init__()
        layers = [nn.Linear(hidden or in_features, out_features)]
        self.project = nn.Sequential(*([nn.Linear(in_features, hidden), nn.ReLU()] if hidden else []), *layers)

    def forward(self, embedding: Tensor) -> Tensor:
        return F.normalize(self.project(embedding).float(), dim=1)


@final
class SupervisedContrastive(nn.Module):
    """Supervised contrastive loss (Khosla et al. 2020, L_out, https://arxiv.org/abs/2004.11362).

    For each sample (the anchor), -log(exp(s_p / t) / sum over all other samples of exp(s / t)) is averaged over its
    positives p, the other samples of its class; s is the cosine similarity to the anchor. A batch should have several
    images per class: a sample without positives is no anchor. With two views of each image and the index of the image
    as class, this is NT-Xent.

    Args:
        temperature: t.

    Shape: predictions (B, D) of length 1, target (B,) int64 of any values, labelled (B,) bool or None for all -> a
    scalar. Unlabelled samples are neither anchors nor compared with. Without any positives the loss and its gradients
    are 0.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def extra_repr(self) -> str:
        return f"supervised contrastive loss, temperature {self.temperature}"

    def forward(self, predictions: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        others = ~torch.eye(len(target), dtype=torch.bool, device=target.device)
        if labelled is not None:
            others = others & labelled[:, None] & labelled
            predictions = torch.where(labelled[:, None], predictions, 0.0)
        positives = others & (target[:, None] == target)
        scores = (predictions.float() @ predictions.float().T) / self.temperature
        logs = scores - torch.where(others, scores, _LOG_ZERO).logsumexp(dim=1, keepdim=True)
        counts = positives.sum(dim=1)
        return mean_over(-torch.where(positives, logs, 0.0).sum(dim=1) / counts.clamp(min=1), counts > 0)


@final
class RecallAtK(BaseMetric):
    """Recall@K: the fraction of queries with a sample of their class among their K nearest neighbours, by cosine.

    Every sample that is not the only one of its class is a query (Jegou et al. 2011,
    https://doi.org/10.1109/TPAMI.2010.57). All vectors are stored until `reset`.
    """

    vectors: Annotated[list[Tensor], MetricState()]
    classes: Annotated[list[Tensor], MetricState()]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add unit vectors (B, D) and their classes (B,)."""
        self.vectors.append(predictions)
        self.classes.append(target)

    def compute(self) -> dict[str, Tensor]:
        """Return "Recall@1" and "Recall@5"; an empty dictionary if no class has two samples."""
        vectors, classes = dim_zero_cat(self.vectors), dim_zero_cat(self.classes)
        hits = torch.zeros(len(_NEIGHBOURS), device=vectors.device)
        queries = torch.zeros((), device=vectors.device)
        count = min(max(_NEIGHBOURS), len(vectors) - 1)
        for start in range(0, len(vectors), _CHUNK):
            rows = torch.arange(start, min(start + _CHUNK, len(vectors)), device=vectors.device)
            cosines = vectors[rows] @ vectors.T
            cosines[rows - start, rows] = -torch.inf
            nearest = cosines.topk(count, dim=1).indices
            is_match = classes[nearest] == classes[rows, None]
            queries += ((classes[rows, None] == classes).sum(dim=1) > 1).sum()
            hits += torch.stack([is_match[:, :k].any(dim=1).sum() for k in _NEIGHBOURS])
        if queries == 0:
            return {}
        return {f"Recall@{k}": value for k, value in zip(_NEIGHBOURS, hits / queries, strict=True)}


def embedding_metrics() -> LabelledMetrics:
    """Create `RecallAtK`; it takes vectors (B, D), targets (B,) int64 and optionally labelled (B,) bool."""
    return LabelledMetrics({"RecallAtK": RecallAtK()})
