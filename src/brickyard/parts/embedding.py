"""Parts of metric learning: heads that make unit vectors, loss, metrics."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.losses import LabelledMetrics, mean_over
from brickyard.parts.metric_state import BaseMetric, MetricState

_NEIGHBOURS = (1, 5)
_QUERIES = 1024  # at a time, so that not all distances are in memory
_NEVER = -1e9  # a logarithm of a probability that is as good as 0, with gradients that are no nan


@final
class UnitVector(nn.Module):
    """Project a pooled vector to one of length 1, in float32.

    Args:
        in_features: E.
        out_features: D.
        hidden: The width of a layer with ReLU in between, None for none.

    Shape: (B, E) -> (B, D).
    """

    def __init__(self, in_features: int, out_features: int, hidden: int | None = None) -> None:
        super().__init__()
        layers = [nn.Linear(hidden or in_features, out_features)]
        self.project = nn.Sequential(*([nn.Linear(in_features, hidden), nn.ReLU()] if hidden else []), *layers)

    def forward(self, embedding: Tensor) -> Tensor:
        return F.normalize(self.project(embedding).float(), dim=1)


@final
class SupervisedContrastive(nn.Module):
    """Draws together what is of one class and pushes apart all else (Khosla et al. 2020, L_out, https://arxiv.org/abs/2004.11362).

    For each picture, the mean over the others of its class of -log(exp(s_p / t) / sum over all others of exp(s / t)), s
    the cosine. A batch should have several pictures of each class: one that is alone in its class is no anchor. With
    each picture in two views, labelled by its number, this is NT-Xent.

    Args:
        temperature: t.

    Shape: predictions (B, D) of length 1, target (B,) int64 of any values, labelled (B,) bool or None for all -> a
    scalar. Unlabelled rows are left out on both sides. Without any two of one class the loss is 0, with zero
    gradients.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, predictions: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        others = ~torch.eye(len(target), dtype=torch.bool, device=target.device)
        if labelled is not None:
            others = others & labelled[:, None] & labelled
            predictions = torch.where(labelled[:, None], predictions, 0.0)
        alike = others & (target[:, None] == target)
        scores = (predictions.float() @ predictions.float().T) / self.temperature
        logs = scores - torch.where(others, scores, _NEVER).logsumexp(dim=1, keepdim=True)
        counts = alike.sum(dim=1)
        return mean_over(-torch.where(alike, logs, 0.0).sum(dim=1) / counts.clamp(min=1), counts > 0)


@final
class RecallAtK(BaseMetric):
    """The part of pictures with one of their class among the K nearest others, by cosine (Jegou et al. 2011,
    https://doi.org/10.1109/TPAMI.2010.57); those that are alone in their class are no queries.

    It keeps every vector until it is reset.
    """

    vectors: Annotated[list[Tensor], MetricState()]
    classes: Annotated[list[Tensor], MetricState()]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add vectors (B, D) of length 1 and their classes (B,)."""
        self.vectors.append(predictions)
        self.classes.append(target)

    def compute(self) -> dict[str, Tensor]:
        """{"Recall@1", "Recall@5"}; nothing where no class has two pictures."""
        vectors, classes = _joined(self.vectors), _joined(self.classes)
        found = torch.zeros(len(_NEIGHBOURS), device=vectors.device)
        queries = torch.zeros((), device=vectors.device)
        count = min(max(_NEIGHBOURS), len(vectors) - 1)
        for start in range(0, len(vectors), _QUERIES):
            rows = torch.arange(start, min(start + _QUERIES, len(vectors)), device=vectors.device)
            cosines = vectors[rows] @ vectors.T
            cosines[rows - start, rows] = -torch.inf
            nearest = cosines.topk(count, dim=1).indices
            alike = classes[nearest] == classes[rows, None]
            queries += ((classes[rows, None] == classes).sum(dim=1) > 1).sum()
            found += torch.stack([alike[:, :k].any(dim=1).sum() for k in _NEIGHBOURS])
        if queries == 0:
            return {}
        return {f"Recall@{k}": value for k, value in zip(_NEIGHBOURS, found / queries, strict=True)}


def embedding_metrics() -> LabelledMetrics:
    """See `RecallAtK`; reads vectors (B, D), targets (B,) int64, and optionally labelled (B,) bool."""
    return LabelledMetrics({"RecallAtK": RecallAtK()})


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state as one tensor: after a gathering over processes it is one already."""
    return state if isinstance(state, Tensor) else torch.cat(state)
