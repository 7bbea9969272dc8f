"""Parts for depth estimation: depth from its logarithm and the reverse, loss, metrics."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError
from brickyard.parts.losses import LabelledMetrics
from brickyard.parts.metric_state import BaseMetric, MetricState

_MAX_LOG = 20.0  # larger logarithms are clamped, so that the exponential stays finite
_RATIO = 1.25  # the base of the thresholds of Delta1 to Delta3


@final
class DepthFromLog(nn.Module):
    """Convert the logarithm of depth (B, 1, H, W) to depth (B, 1, H, W), positive, in float32."""

    def forward(self, log_depth: Tensor) -> Tensor:
        return log_depth.float().clamp(-_MAX_LOG, _MAX_LOG).exp()


@final
class DepthLogarithm(nn.Module):
    """Convert depth (B, 1, H, W), positive, to its logarithm (B, 1, H, W), in float32."""

    def forward(self, depth: Tensor) -> Tensor:
        return depth.float().log()


@final
class ScaleInvariantLoss(nn.Module):
    """Scale-invariant loss of log depth (Eigen et al. 2014, https://arxiv.org/abs/1406.2283).

    For an image it is mean(d^2) - scale_invariance * mean(d)^2 over the valid pixels, with d the difference of the
    logarithms: a wrong scale of the whole image costs less than wrong relative depth. It is averaged over the images
    with valid pixels and computed in float32.

    Args:
        scale_invariance: In [0, 1]: 1 ignores the scale, 0 is the mean squared error of the logarithm; 0.5 in the
            paper.

    Shape: log_depth (B, 1, H, W), target (B, H, W) float, labelled (B,) bool or None for all -> a scalar. Target pixels
    that are not positive or not finite are invalid. Without valid pixels the loss and its gradients are 0.

    Raises:
        BrickInputError: The target has another size.
    """

    def __init__(self, scale_invariance: float = 0.5) -> None:
        super().__init__()
        self.scale_invariance = scale_invariance

    def extra_repr(self) -> str:
        return f"mean(d^2) - {self.scale_invariance} * mean(d)^2, d the difference of log depths"

    def forward(self, log_depth: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        prediction = log_depth[:, 0]
        if target.shape != prediction.shape:
            expected = f"a target (B, H, W) = {tuple(prediction.shape)}"
            raise BrickInputError(type(self).__name__, expected, f"{tuple(target.shape)}")
        valid = _is_valid(target)
        if labelled is not None:
            valid = valid & labelled[:, None, None]
        count = valid.sum(dim=(1, 2))
        logs = torch.where(valid, target, 1.0).float().log()  # mask first: log(0) would make the gradient nan
        differences = torch.where(valid, prediction.float() - logs, 0.0)
        pixels = count.clamp(min=1)
        mean, square = differences.sum(dim=(1, 2)) / pixels, differences.square().sum(dim=(1, 2)) / pixels
        return (square - self.scale_invariance * mean.square()).sum() / (count > 0).sum().clamp(min=1)


@final
class DepthErrors(BaseMetric):
    """Depth errors over all valid pixels, as in Eigen et al. 2014 (https://arxiv.org/abs/1406.2283).

    RMSE is in the unit of the depth. AbsRel is the mean of |error| / target. Delta1 to Delta3 are the fractions of
    pixels with max(prediction / target, target / prediction) below 1.25, 1.25^2 and 1.25^3.
    """

    square: Annotated[Tensor, MetricState(default=torch.tensor(0.0, dtype=torch.float64))]
    relative: Annotated[Tensor, MetricState(default=torch.tensor(0.0, dtype=torch.float64))]
    within: Annotated[Tensor, MetricState(default=torch.zeros(3, dtype=torch.int64))]
    pixels: Annotated[Tensor, MetricState(default=0)]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add predicted depth (B, 1, H, W) and target depth (B, H, W)."""
        valid = _is_valid(target)
        predicted, expected = predictions[:, 0][valid].double(), target[valid].double()
        ratio = torch.maximum(predicted / expected, expected / predicted)
        self.square += (predicted - expected).square().sum()
        self.relative += ((predicted - expected).abs() / expected).sum()
        self.within += torch.stack([(ratio < _RATIO**power).sum() for power in (1, 2, 3)])
        self.pixels += valid.sum()

    def compute(self) -> dict[str, Tensor]:
        """Return "RMSE", "AbsRel", "Delta1", "Delta2" and "Delta3"; an empty dictionary without valid pixels."""
        if self.pixels == 0:
            return {}
        errors = {"RMSE": (self.square / self.pixels).sqrt(), "AbsRel": self.relative / self.pixels}
        deltas = {f"Delta{power}": delta for power, delta in enumerate(self.within / self.pixels, start=1)}
        return {name: value.float() for name, value in (errors | deltas).items()}


def depth_metrics() -> LabelledMetrics:
    """Create `DepthErrors`; they take depth (B, 1, H, W), targets (B, H, W) and optionally labelled (B,) bool."""
    return LabelledMetrics({"DepthErrors": DepthErrors()})


def _is_valid(target: Tensor) -> Tensor:
    return target.isfinite() & (target > 0)
