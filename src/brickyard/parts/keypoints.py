"""Parts of keypoint detection by heatmaps: a head of its own, what it predicts, loss, metrics."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.errors import BrickInputError
from brickyard.parts.blocks import conv1x1
from brickyard.parts.losses import LabelledMetrics
from brickyard.parts.metric_state import BaseMetric, MetricState

_SHARES = (0.1, 0.2)  # of the box around a picture's keypoints: so far off, a prediction still counts


@final
class DeconvolutionHeatmaps(nn.Module):
    """The head of SimpleBaseline (Xiao et al. 2018, https://arxiv.org/abs/1804.06208): from the last map by transposed
    convolutions to stride 4, or near it.

    Args:
        in_channels: C.
        stride: Of the map.
        num_classes: K keypoints.
        width: Channels inside.

    Shape: (B, C, h, w) -> (B, K, n h, n w), n the power of two nearest to stride / 4, 2 to 8.
    """

    def __init__(self, in_channels: int, stride: int, num_classes: int, width: int = 256) -> None:
        super().__init__()
        steps = min(max(round(math.log2(stride / 4)), 1), 3)
        widths = [in_channels, *[width] * steps]
        self.steps = nn.Sequential(*(_doubled(widths[step], width) for step in range(steps)))
        self.classifier = conv1x1(width, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.steps(features))  # type: ignore[no-any-return]


@final
class KeypointDecode(nn.Module):
    """Heatmaps -> where each keypoint is, and how sure that is.

    The softmax over the cells is the probability of each. The keypoint is the mean over the most likely cell and the
    eight around it (the integral of Sun et al. 2018, https://arxiv.org/abs/1711.08229, near the peak); the score is
    their probability.

    Shape: heatmaps (B, K, h, w), image (B, C, H, W) of any type -> keypoints (B, K, 2), x and y in pixels of the image,
    the middle of its first pixel being (0.5, 0.5); scores (B, K), in [0, 1].
    """

    def forward(self, heatmaps: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        batch, count, height, width = heatmaps.shape
        cells = heatmaps.float().flatten(2).softmax(dim=2).view(batch, count, height, width)
        y = torch.arange(height, device=cells.device, dtype=cells.dtype)[:, None] + 0.5
        x = torch.arange(width, device=cells.device, dtype=cells.dtype) + 0.5
        near = torch.cat((cells, cells * x, cells * y), dim=1)
        sums = F.avg_pool2d(near, kernel_size=3, stride=1, padding=1).flatten(2) * 9
        peaks = cells.flatten(2).argmax(dim=2, keepdim=True).repeat(1, 3, 1)
        scores, sum_x, sum_y = sums.gather(2, peaks).squeeze(2).chunk(3, dim=1)
        there = scores.clamp(min=1e-12)
        scale_x, scale_y = image.shape[-1] / width, image.shape[-2] / height
        return torch.stack((sum_x / there * scale_x, sum_y / there * scale_y), dim=2), scores.clamp(max=1)


@final
class KeypointLoss(nn.Module):
    """Cross-entropy over the cells of each heatmap (He et al. 2017, Mask R-CNN, https://arxiv.org/abs/1703.06870), the
    mean over known keypoints, in float32.

    The truth is not one cell but the four around the keypoint, by their nearness, so that its place within a cell is
    learned, too.

    Shape: heatmaps (B, K, h, w), image (B, C, H, W), target (B, K, 3) of x and y in pixels and a visibility, where 0 is
    unknown, labelled (B,) bool or None for all -> a scalar. A keypoint outside the image counts as unknown. Without any
    known one the loss is 0, with zero gradients.

    Raises:
        BrickInputError: A target of another shape.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, heatmaps: Tensor, image: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        batch, count, height, width = heatmaps.shape
        if target.shape != (batch, count, 3):
            expected = f"a target (B, K, 3) = {(batch, count, 3)} of x, y and visibility"
            raise BrickInputError(type(self).__name__, expected, f"{tuple(target.shape)}")
        size = target.new_tensor([image.shape[-1], image.shape[-2]]).float()
        prefixes = target[..., :2].float()
        known = (target[..., 2] > 0) & ((prefixes >= 0) & (prefixes <= size)).all(dim=2)
        if labelled is not None:
            known = known & labelled[:, None]
        # -1 and 1 are the edges of the image; beyond the middles of its outer cells, these count alone
        grid = torch.where(known[..., None], prefixes / size * 2 - 1, 0.0).view(batch * count, 1, 1, 2)
        logs = heatmaps.float().flatten(2).log_softmax(dim=2).reshape(batch * count, 1, height, width)
        found = F.grid_sample(logs, grid, padding_mode="border", align_corners=False).view(batch, count)
        return torch.where(known, -found, 0.0).sum() / known.sum().clamp(min=1)


@final
class KeypointErrors(BaseMetric):
    """How far off keypoints are.

    PCK@a is the part of them within a times the longer side of the box around the known keypoints of their picture
    (Yang and Ramanan 2013, https://doi.org/10.1109/TPAMI.2012.261); pictures where these have no extent are left out.
    PixelError is the mean distance in pixels.
    """

    right: Annotated[Tensor, MetricState(default=torch.zeros(len(_SHARES)))]
    compared: Annotated[Tensor, MetricState()]
    distance: Annotated[Tensor, MetricState()]
    known: Annotated[Tensor, MetricState()]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add keypoints (B, K, 2) and the labels (B, K, 3)."""
        known = (target[..., 2] > 0) & target[..., :2].isfinite().all(dim=2)
        prefixes = torch.where(known[..., None], target[..., :2], 0).float()
        distances = torch.where(known, (predictions - prefixes).norm(dim=2), 0.0)
        far = torch.finfo(prefixes.dtype).max
        least = torch.where(known[..., None], prefixes, far).amin(dim=1)
        most = torch.where(known[..., None], prefixes, -far).amax(dim=1)
        sides = torch.where(known.any(dim=1)[:, None], most - least, 0.0).amax(dim=1, keepdim=True)
        compared = known & (sides > 0)
        shares = torch.tensor(_SHARES, device=sides.device)[:, None, None]
        self.right += (compared & (distances <= shares * sides)).sum(dim=(1, 2))
        self.compared += compared.sum()
        self.distance += distances.sum()
        self.known += known.sum()

    def compute(self) -> dict[str, Tensor]:
        """{"PCK@0.1", "PCK@0.2", "PixelError"}, without those that nothing was measured for."""
        shares = self.right / self.compared
        found = {f"PCK@{share}": value for share, value in zip(_SHARES, shares, strict=True) if self.compared > 0}
        return found | ({"PixelError": self.distance / self.known} if self.known > 0 else {})


def keypoint_metrics() -> LabelledMetrics:
    """See `KeypointErrors`; reads keypoints (B, K, 2), targets (B, K, 3), and optionally labelled (B,) bool."""
    return LabelledMetrics({"KeypointErrors": KeypointErrors()})


def _doubled(channels: int, width: int) -> nn.Module:
    deconvolution = nn.ConvTranspose2d(channels, width, kernel_size=4, stride=2, padding=1, bias=False)
    return nn.Sequential(deconvolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
