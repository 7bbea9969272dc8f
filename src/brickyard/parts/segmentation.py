"""Parts for semantic segmentation other than heads: logits at image size, predicted classes, loss, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from brickyard.errors import BrickInputError
from brickyard.parts.losses import LabelledMetrics, cross_entropy_formula

IGNORED = 255  # the class of unlabelled pixels in a target mask


@final
class ResizeLogits(nn.Module):
    """Resize logits to the size of the image by bilinear interpolation.

    Shape: coarse (B, K, h, w), image (B, C, H, W) of any dtype -> (B, K, H, W).
    """

    def forward(self, coarse: Tensor, image: Tensor) -> Tensor:
        return F.interpolate(coarse, size=image.shape[-2:], mode="bilinear", align_corners=False)


@final
class ClassMap(nn.Module):
    """Convert logits (B, K, H, W) to the predicted class of each pixel, (B, H, W) int64 in [0, K)."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.max(dim=1).indices  # the values of `argmax`, in half its time on a CPU


@final
class SegmentationLoss(nn.Module):
    """Mean cross-entropy over the labelled pixels, optionally with a Dice loss, computed in float32.

    Args:
        dice: The weight of the soft Dice loss (Milletari et al. 2016, https://arxiv.org/abs/1606.04797):
            1 - 2 |P G| / (|P| + |G|) over the labelled pixels of the batch, averaged over the classes in the target.
        label_smoothing: The part of each target of the cross-entropy that is spread evenly over all classes, in [0, 1).

    Shape: logits (B, K, H, W), target (B, H, W) int64 in [0, K) or 255 for unlabelled pixels, labelled (B,) bool or
    None for all -> a scalar. The target of an unlabelled sample may have any values. Without labelled pixels the loss
    and its gradients are 0.

    Raises:
        BrickInputError: The sizes of target and logits differ.
    """

    def __init__(self, dice: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.dice, self.label_smoothing = dice, label_smoothing

    def extra_repr(self) -> str:
        return cross_entropy_formula(self.label_smoothing) + (f" + {self.dice} * Dice" if self.dice else "")

    def forward(self, logits: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        size = (logits.shape[0], *logits.shape[2:])
        if target.shape != size:
            raise BrickInputError(type(self).__name__, f"a target (B, H, W) = {tuple(size)}", f"{tuple(target.shape)}")
        if labelled is not None:
            target = torch.where(labelled[:, None, None], target, IGNORED)
        logits = logits.float()
        # Without labelled pixels the mean is nan, but the sum is 0 and connected to the graph.
        smoothing = self.label_smoothing
        total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
        loss = total / (target != IGNORED).sum().clamp(min=1)
        return loss + self.dice * dice_loss(logits, target) if self.dice else loss


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the Dice term of `SegmentationLoss`: logits (B, K, H, W), target (B, H, W) -> a scalar in [0, 1]."""
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    masks = target[:, None] == classes  # pixels of class 255 are in no mask
    probabilities = torch.where((target != IGNORED)[:, None], logits.softmax(dim=1), 0.0)
    overlap = torch.where(masks, probabilities, 0.0).sum(dim=(0, 2, 3))
    area = masks.sum(dim=(0, 2, 3))
    dice = 2 * overlap / (probabilities.sum(dim=(0, 2, 3)) + area).clamp(min=1e-7)
    return torch.where(area > 0, 1 - dice, 0.0).sum() / (area > 0).sum().clamp(min=1)


@final
class ClassIoU(MulticlassJaccardIndex):
    """Intersection over union per class as {"IoU/<label>": scalar}; nan for a class in neither predictions nor targets.

    Args:
        labels: The K class names.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(
            len(labels), average="none", ignore_index=IGNORED, validate_args=False, zero_division=float("nan")
        )
        self.labels = tuple(labels)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        return {f"IoU/{label}": value for label, value in zip(self.labels, super().compute(), strict=True)}


@final
class PixelAccuracy(MulticlassConfusionMatrix):
    """The fraction of labelled pixels with the correct class, computed from a confusion matrix."""

    def compute(self) -> Tensor:
        matrix: Tensor = self.confmat.double()
        return (matrix.trace() / matrix.sum()).float()


def segmentation_metrics(labels: Sequence[str]) -> LabelledMetrics:
    """Create mean IoU (over classes in predictions or targets), IoU per class and pixel accuracy.

    They take predicted classes (B, H, W) int64, targets (B, H, W) int64 with 255 for unlabelled pixels, and optionally
    labelled (B,) bool. They are torchmetrics' and share one confusion matrix.

    Args:
        labels: The K class names.
    """
    count = len(labels)
    return LabelledMetrics(  # validate_args would sort all pixels at every update
        {
            "MeanIoU": MulticlassJaccardIndex(count, average="macro", ignore_index=IGNORED, validate_args=False),
            "IoU": ClassIoU(labels),
            "PixelAccuracy": PixelAccuracy(count, ignore_index=IGNORED, validate_args=False),
        },
        compute_groups=[["MeanIoU", "IoU", "PixelAccuracy"]],
    )
