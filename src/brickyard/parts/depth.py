"""Parts of depth estimation: depth of its logarithm, loss, metrics."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError
from brickyard.parts.losses import LabelledMetrics
from brickyard.parts.metric_state import BaseMetric, MetricState

_LARGEST = 20.0  # of a logarithm: its exponential is no infinity, also in half precision's sums
_RATIO = 1.25  # of Eigen's thresholds


@final
class DepthFromLog(nn.Module):
    """The logarithm of depth (B, 1, H, W) -> depth (B, 1, H, W), above 0, in float32."""

    def forward(self, log_depth: Tensor) -> Tensor:
        return log_depth.float().clamp(-_LARGEST, _LARGEST).exp()


@final
class ScaleInvariantLoss(nn.Module):
    """The mean of d^2 minus a part of (the mean of d)^2, d the difference of logarithms (Eigen et al. 2014,
    https://arxiv.org/abs/1406.2283): an error of the whole picture's scale counts less than one of its shape.

    Each picture's loss is over its known pixels; the mean over pictures that have any, in float32.

    Args:
        scale_invariance: The part, in [0, 1]: 1 leaves the scale free, 0 is the mean square; 0.5 in the paper.

    Shape: log_depth (B, 1, H, W), target (B, H, W) float, not above 0 or not finite where depth is unknown, labelled
    (B,) bool or None for all -> a scalar. Without any known pixel the loss is 0, with zero gradients.

    Raises:
        BrickInputError: A target of another size.
    """

    def __init__(self, scale_invariance: float = 0.5) -> None:
        super().__init__()
        self.scale_invariance = scale_invariance

    def forward(self, log_depth: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        found = log_depth[:, 0]
        if target.shape != found.shape:
            expected = f"a target (B, H, W) = {tuple(found.shape)}"
            raise BrickInputError(type(self).__name__, expected, f"{tuple(target.shape)}")
        known = _known(target)
        if labelled is not None:
            known = known & labelled[:, None, None]
        count = known.sum(dim=(1, 2))
        logs = torch.where(known, target, 1.0).float().log()  # 1 first: the logarithm of 0 would be in the gradient
        differences = torch.where(known, found.float() - logs, 0.0)
        pixels = count.clamp(min=1)
        mean, square = differences.sum(dim=(1, 2)) / pixels, differences.square().sum(dim=(1, 2)) / pixels
        return (square - self.scale_invariance * mean.square()).sum() / (count > 0).sum().clamp(min=1)


@final
class DepthErrors(BaseMetric):
    """The errors of Eigen et al. 2014 over all known pixels: RMSE in the depth's unit; AbsRel, the mean of the error's
    part of the truth; Delta1 to Delta3, the part of pixels whose ratio to the truth is below 1.25, 1.25^2 and 1.25^3.
    """

    square: Annotated[Tensor, MetricState(default=torch.tensor(0.0, dtype=torch.float64))]
    relative: Annotated[Tensor, MetricState(default=torch.tensor(0.0, dtype=torch.float64))]
    within: Annotated[Tensor, MetricState(default=torch.zeros(3, dtype=torch.int64))]
    pixels: Annotated[Tensor, MetricState(default=0)]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add depth (B, 1, H, W) and the truth (B, H, W)."""
        known = _known(target)
        found, truth = predictions[:, 0][known].double(), target[known].double()
        ratio = torch.maximum(found / truth, truth / found)
        self.square += (found - truth).square().sum()
        self.relative += ((found - truth).abs() / truth).sum()
        self.within += torch.stack([(ratio < _RATIO**power).sum() for power in (1, 2, 3)])
        self.pixels += known.sum()

    def compute(self) -> dict[str, Tensor]:
        """{"RMSE", "AbsRel", "Delta1", "Delta2", "Delta3"}; nothing where no pixel is known."""
        if self.pixels == 0:
            return {}
        errors = {"RMSE": (self.square / self.pixels).sqrt(), "AbsRel": self.relative / self.pixels}
        shares = {f"Delta{power}": share for power, share in enumerate(self.within / self.pixels, start=1)}
        return {name: value.float() for name, value in (errors | shares).items()}


def depth_metrics() -> LabelledMetrics:
    """See `DepthErrors`; reads depth (B, 1, H, W), targets (B, H, W), and optionally labelled (B,) bool."""
    return LabelledMetrics({"DepthErrors": DepthErrors()})


def _known(target: Tensor) -> Tensor:
    return target.isfinite() & (target > 0)
