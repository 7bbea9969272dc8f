"""Metrics of anomaly detection: of images, and of pixels in histograms of a fixed size."""

from __future__ import annotations

from typing import Annotated, final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from brickyard.parts.metric_state import BaseMetric, MetricState

_BINS = 4096  # of the scores in [0, 1]: the areas are exact up to the order of scores within a bin
_MAX_FALSE_POSITIVES = 0.3  # the rate up to which AUPRO integrates, as in the paper


@final
class ImageAUROC(BaseMetric):
    """Area under the receiver operating characteristic of image scores, by torchmetrics; the scores are kept."""

    scores: Annotated[list[Tensor], MetricState()]
    targets: Annotated[list[Tensor], MetricState()]
    higher_is_better = True

    def update(self, score: Tensor, target: Tensor, labelled: Tensor | None = None) -> None:
        """Add scores (B,), higher for anomalous images, and targets (B,), 0 for normal and 1 for anomalous."""
        if labelled is not None:
            score, target = score[labelled], target[labelled]
        if len(score):
            self.scores.append(score.float())
            self.targets.append(target)

    def compute(self) -> dict[str, Tensor]:
        """Return "AUROC", nan unless there are images of both kinds; an empty dictionary without images."""
        if not len(self.scores):
            return {}
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        if not len(scores):
            return {}
        if bool((targets == targets[0]).all()):
            return {"AUROC": torch.full_like(scores[0], torch.nan)}
        return {"AUROC": binary_auroc(scores, targets, validate_args=False)}


@final
class PixelScores(BaseMetric):
    """Area under the receiver operating characteristic of pixels, and under the per-region overlap (AUPRO).

    AUPRO (Bergmann et al. 2021, https://doi.org/10.1007/s11263-020-01400-4) is the mean over anomalous regions, which
    are 8-connected, of the part that is found, integrated over the false positive rate of all normal pixels from 0 to
    0.3 and divided by 0.3: small regions count as much as large ones.

    Scores are counted in 4096 bins of equal width, of normal pixels, of anomalous ones, and of each region's pixels
    divided by its area. So the memory does not grow with the number of images, and processes add their states.
    """

    normal: Annotated[Tensor, MetricState(default=torch.zeros(_BINS, dtype=torch.float64))]
    anomalous: Annotated[Tensor, MetricState(default=torch.zeros(_BINS, dtype=torch.float64))]
    overlap: Annotated[Tensor, MetricState(default=torch.zeros(_BINS, dtype=torch.float64))]
    regions: Annotated[Tensor, MetricState(default=0)]

    def update(
        self,
        map: Tensor,
        mask: Tensor | None = None,
        labelled: Tensor | None = None,
        labelled_mask: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            map: (B, H, W), the score of each pixel in [0, 1].
            mask: (B, H, W) of 0 and 1 for anomalous, any other value where it is unknown; None adds nothing.
            labelled: (B,) bool, the images with a label; None for all.
            labelled_mask: (B,) bool, the images with a mask; None for all.
        """
        if mask is None:
            return
        for rows in (labelled, labelled_mask):
            if rows is not None:
                mask = torch.where(rows[:, None, None], mask, -1)
        bins = (map.float() * _BINS).long().clamp(0, _BINS - 1)
        is_anomalous = mask == 1
        self.normal += torch.bincount(bins[mask == 0], minlength=_BINS)
        self.anomalous += torch.bincount(bins[is_anomalous], minlength=_BINS)
        region = connected_regions(is_anomalous)[is_anomalous]
        _, index, area = torch.unique(region, return_inverse=True, return_counts=True)
        self.overlap += torch.bincount(bins[is_anomalous], weights=1 / area.double()[index], minlength=_BINS)
        self.regions += len(area)

    def compute(self) -> dict[str, Tensor]:
        """Return "PixelAUROC" and "AUPRO"; an empty dictionary unless there are pixels of both kinds."""
        if not self.normal.any() or not self.anomalous.any():
            return {}
        false, true = _rates(self.normal), _rates(self.anomalous)
        limited = _area_up_to(_MAX_FALSE_POSITIVES, false, _rates(self.overlap)) / _MAX_FALSE_POSITIVES
        return {"PixelAUROC": torch.trapezoid(true, false).float(), "AUPRO": limited.float()}


def anomaly_metrics() -> MetricCollection:
    """Create the area under the receiver operating characteristic of images, see `ImageAUROC`."""
    return MetricCollection({"ImageAUROC": ImageAUROC()})


def anomaly_map_metrics() -> MetricCollection:
    """Create the metrics of pixels and regions, see `PixelScores`."""
    return MetricCollection({"PixelScores": PixelScores()})


def connected_regions(mask: Tensor) -> Tensor:
    """Label the 8-connected regions of masks: (B, H, W) bool -> (B, H, W) int64, 0 outside, else equal in a region.

    The labels of a batch differ, and are not consecutive. The largest index of a region spreads to its pixels by one
    pixel in each step, so that the steps are as many as the longest path in a region.
    """
    index = torch.arange(1, mask.numel() + 1, device=mask.device, dtype=torch.float64).view(mask.shape)
    labels = torch.where(mask, index, 0)
    while True:
        spread = torch.where(mask, F.max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0], 0)
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def _rates(counts: Tensor) -> Tensor:
    """Return the part with a score from each threshold on, from none to all: (bins,) -> (bins + 1,)."""
    return F.pad(counts.flip(0).cumsum(0), (1, 0)) / counts.sum()


def _area_up_to(limit: float, x: Tensor, y: Tensor) -> Tensor:
    """Integrate y over x, which increases from 0 to 1, from 0 to a limit, by trapezoids."""
    left, right = x[:-1].clamp(max=limit), x[1:].clamp(max=limit)
    slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1]).clamp(min=1e-12)
    start, end = y[:-1] + slope * (left - x[:-1]), y[:-1] + slope * (right - x[:-1])
    return ((right - left) * (start + end) / 2).sum()
