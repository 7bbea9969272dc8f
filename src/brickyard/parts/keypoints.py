"""Parts for keypoint detection with heatmaps: head, decoder, loss, metrics."""

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

_PCK_THRESHOLDS = (0.1, 0.2)  # relative to the longer side of the box around the keypoints of an image


@final
class DeconvolutionHeatmaps(nn.Module):
    """Heatmap head of SimpleBaseline: transposed convolutions from the last feature map to a stride of about 4.

    Source: Xiao et al. 2018, https://arxiv.org/abs/1804.06208.

    Args:
        in_channels: C.
        stride: The stride of the feature map.
        num_classes: K, the number of keypoints.
        width: The hidden channels.

    Shape: (B, C, h, w) -> (B, K, n h, n w), with n the power of two nearest to stride / 4, from 2 to 8.
    """

    def __init__(self, in_channels: int, stride: int, num_classes: int, width: int = 256) -> None:
        super().__init__()
        steps = min(max(round(math.log2(stride / 4)), 1), 3)
        widths = [in_channels, *[width] * steps]
        self.steps = nn.Sequential(*(_upsample(widths[step], width) for step in range(steps)))
        self.classifier = conv1x1(width, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.steps(features))  # type: ignore[no-any-return]


@final
class KeypointDecode(nn.Module):
    """Decode heatmaps to keypoints and scores.

    The heatmap is normalised by softmax over its cells. The keypoint is the expected position over the most likely cell
    and its eight neighbours (the integral regression of Sun et al. 2018, https://arxiv.org/abs/1711.08229, near the
    peak); the score is the probability of these cells.

    Shape: heatmaps (B, K, h, w), image (B, C, H, W) of any dtype -> keypoints (B, K, 2), x and y in pixels of the
    image, where the centre of the first pixel is (0.5, 0.5); scores (B, K), in [0, 1].
    """

    def forward(self, heatmaps: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        batch, count, height, width = heatmaps.shape
        cells = heatmaps.float().flatten(2).softmax(dim=2).view(batch, count, height, width)
        y = torch.arange(height, device=cells.device, dtype=cells.dtype)[:, None] + 0.5
        x = torch.arange(width, device=cells.device, dtype=cells.dtype) + 0.5
        weighted = torch.cat((cells, cells * x, cells * y), dim=1)
        sums = F.avg_pool2d(weighted, kernel_size=3, stride=1, padding=1).flatten(2) * 9
        peaks = cells.flatten(2).argmax(dim=2, keepdim=True).repeat(1, 3, 1)
        scores, sum_x, sum_y = sums.gather(2, peaks).squeeze(2).chunk(3, dim=1)
        total = scores.clamp(min=1e-12)
        scale_x, scale_y = image.shape[-1] / width, image.shape[-2] / height
        return torch.stack((sum_x / total * scale_x, sum_y / total * scale_y), dim=2), scores.clamp(max=1)


@final
class KeypointLoss(nn.Module):
    """Cross-entropy over the cells of each heatmap, averaged over the labelled keypoints, computed in float32.

    As in Mask R-CNN (He et al. 2017, https://arxiv.org/abs/1703.06870), but the target is distributed over the four
    cells around the keypoint with bilinear weights, so that sub-cell positions are learned.

    Shape: heatmaps (B, K, h, w), image (B, C, H, W), target (B, K, 3) with x and y in pixels and the visibility (0 for
    not labelled), labelled (B,) bool or None for all -> a scalar. Keypoints outside the image count as not labelled.
    Without labelled keypoints the loss and its gradients are 0.

    Raises:
        BrickInputError: The target has another shape.
    """

    def extra_repr(self) -> str:
        return "cross-entropy over the cells of each heatmap"

    def forward(self, heatmaps: Tensor, image: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        batch, count, height, width = heatmaps.shape
        if target.shape != (batch, count, 3):
            expected = f"a target (B, K, 3) = {(batch, count, 3)} with x, y and visibility"
            raise BrickInputError(type(self).__name__, expected, f"{tuple(target.shape)}")
        size = target.new_tensor([image.shape[-1], image.shape[-2]]).float()
        points = target[..., :2].float()
        valid = (target[..., 2] > 0) & ((points >= 0) & (points <= size)).all(dim=2)
        if labelled is not None:
            valid = valid & labelled[:, None]
        # grid_sample's coordinates: -1 and 1 are the edges of the image. Border padding uses the outer cells alone for
        # points beyond their centres.
        grid = torch.where(valid[..., None], points / size * 2 - 1, 0.0).view(batch * count, 1, 1, 2)
        logs = heatmaps.float().flatten(2).log_softmax(dim=2).reshape(batch * count, 1, height, width)
        log_likelihood = F.grid_sample(logs, grid, padding_mode="border", align_corners=False).view(batch, count)
        return torch.where(valid, -log_likelihood, 0.0).sum() / valid.sum().clamp(min=1)


@final
class KeypointErrors(BaseMetric):
    """Percentage of correct keypoints (PCK) and mean pixel error.

    PCK@a is the fraction of labelled keypoints predicted within a times the longer side of the box around the labelled
    keypoints of their image (Yang and Ramanan 2013, https://doi.org/10.1109/TPAMI.2012.261). Images whose box has no
    extent are ignored. PixelError is the mean distance in pixels.
    """

    correct: Annotated[Tensor, MetricState(default=torch.zeros(len(_PCK_THRESHOLDS)))]
    compared: Annotated[Tensor, MetricState()]
    distance: Annotated[Tensor, MetricState()]
    labelled: Annotated[Tensor, MetricState()]

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Add predicted keypoints (B, K, 2) and targets (B, K, 3) with x, y and visibility."""
        labelled = (target[..., 2] > 0) & target[..., :2].isfinite().all(dim=2)
        points = torch.where(labelled[..., None], target[..., :2], 0).float()
        distances = torch.where(labelled, (predictions - points).norm(dim=2), 0.0)
        far = torch.finfo(points.dtype).max
        low = torch.where(labelled[..., None], points, far).amin(dim=1)
        high = torch.where(labelled[..., None], points, -far).amax(dim=1)
        sides = torch.where(labelled.any(dim=1)[:, None], high - low, 0.0).amax(dim=1, keepdim=True)
        compared = labelled & (sides > 0)
        thresholds = torch.tensor(_PCK_THRESHOLDS, device=sides.device)[:, None, None]
        self.correct += (compared & (distances <= thresholds * sides)).sum(dim=(1, 2))
        self.compared += compared.sum()
        self.distance += distances.sum()
        self.labelled += labelled.sum()

    def compute(self) -> dict[str, Tensor]:
        """Return "PCK@0.1", "PCK@0.2" and "PixelError", without those that no keypoint was measured for."""
        values: dict[str, Tensor] = {}
        if self.compared > 0:
            fractions = self.correct / self.compared
            values |= {f"PCK@{threshold}": value for threshold, value in zip(_PCK_THRESHOLDS, fractions, strict=True)}
        if self.labelled > 0:
            values["PixelError"] = self.distance / self.labelled
        return values


def keypoint_metrics() -> LabelledMetrics:
    """Create `KeypointErrors`; they take keypoints (B, K, 2), targets (B, K, 3) and optionally labelled (B,) bool."""
    return LabelledMetrics({"KeypointErrors": KeypointErrors()})


def _upsample(channels: int, width: int) -> nn.Module:
    deconvolution = nn.ConvTranspose2d(channels, width, kernel_size=4, stride=2, padding=1, bias=False)
    return nn.Sequential(deconvolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
