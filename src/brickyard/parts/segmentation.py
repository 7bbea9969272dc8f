"""Parts of semantic segmentation around the heads: logits at image size, predicted classes, loss, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from brickyard.errors import BrickInputError
from brickyard.parts.losses import LabelledMetrics

IGNORED = 255  # what a target has where nobody knows the class


@final
class ResizeLogits(nn.Module):
    """Logits at a head's stride -> logits at image size, bilinear.

    Shape: coarse (B, K, h, w), image (B, C, H, W) of any type -> (B, K, H, W).
    """

    def forward(self, coarse: Tensor, image: Tensor) -> Tensor:
        return F.interpolate(coarse, size=image.shape[-2:], mode="bilinear", align_corners=False)


@final
class ClassMap(nn.Module):
    """Logits (B, K, H, W) -> the most likely class of each pixel (B, H, W) int64, in [0, K)."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.max(dim=1).indices  # the same as `argmax`, in half its time on a CPU


@final
class SegmentationLoss(nn.Module):
    """Mean cross-entropy over the pixels whose class is known, and optionally a Dice loss, in float32.

    Args:
        dice: Weight of the soft Dice loss that is added (Milletari et al. 2016, https://arxiv.org/abs/1606.04797):
            1 - 2 |P G| / (|P| + |G|) over the known pixels of the batch, averaged over the classes that are there.

    Shape: logits (B, K, H, W), target (B, H, W) int64 in [0, K) or 255 for unknown, labelled (B,) bool or None for all
    -> a scalar. What stands in an unlabelled row of the target does not matter. Without any known pixel the loss is 0,
    with zero gradients.

    Raises:
        BrickInputError: A target of another size than the logits; a class out of range (not looked for in a compiled
            graph, which cannot branch on values).
    """

    def __init__(self, dice: float = 0.0) -> None:
        super().__init__()
        self.dice = dice

    def forward(self, logits: Tensor, target: Tensor, labelled: Tensor | None = None) -> Tensor:
        size = (logits.shape[0], *logits.shape[2:])
        if target.shape != size:
            raise BrickInputError(type(self).__name__, f"a target (B, H, W) = {tuple(size)}", f"{tuple(target.shape)}")
        if labelled is not None:
            target = torch.where(labelled[:, None, None], target, IGNORED)
        if not torch.compiler.is_compiling():
            _check_classes(target, logits.shape[1], type(self).__name__)
        logits = logits.float()
        # The sum, not the mean: of no pixel at all, the mean is nan and the sum is 0, still part of the graph.
        total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        loss = total / (target != IGNORED).sum().clamp(min=1)
        return loss + self.dice * dice_loss(logits, target) if self.dice else loss


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The Dice term of `SegmentationLoss`: logits (B, K, H, W), target (B, H, W) -> a scalar in [0, 1]."""
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    truth = target[:, None] == classes  # a pixel with 255 is of no class
    found = torch.where((target != IGNORED)[:, None], logits.softmax(dim=1), 0.0)
    overlap = torch.where(truth, found, 0.0).sum(dim=(0, 2, 3))
    area = truth.sum(dim=(0, 2, 3))
    dice = 2 * overlap / (found.sum(dim=(0, 2, 3)) + area).clamp(min=1e-7)
    return torch.where(area > 0, 1 - dice, 0.0).sum() / (area > 0).sum().clamp(min=1)


def _check_classes(target: Tensor, num_classes: int, location: str) -> None:
    wrong = ((target < 0) | (target >= num_classes)) & (target != IGNORED)
    if wrong.any():
        row = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        found = f"{sorted(set(target[row][wrong[row]].tolist()))[:5]} in row {row}"
        raise BrickInputError(location, f"a target with classes in [0, {num_classes}) or {IGNORED}", found)


@final
class ClassIoU(MulticlassJaccardIndex):
    """The intersection over union of each class, as {"IoU/<label>": scalar}; nan for a class that is nowhere.

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
    """The part of the known pixels whose class was found, from a confusion matrix."""

    def compute(self) -> Tensor:
        matrix: Tensor = self.confmat.double()
        return (matrix.trace() / matrix.sum()).float()


def segmentation_metrics(labels: Sequence[str]) -> LabelledMetrics:
    """Mean IoU over the classes that are found or there, the IoU of each class, and the accuracy over pixels.

    Each reads predicted classes (B, H, W) int64, targets (B, H, W) int64 with 255 for unknown, and where some rows are
    unlabelled, labelled (B,) bool; by torchmetrics, from one confusion matrix that is counted once.

    Args:
        labels: The K class names.
    """
    count = len(labels)
    return LabelledMetrics(  # without validation, which sorts all pixels at every update
        {
            "MeanIoU": MulticlassJaccardIndex(count, average="macro", ignore_index=IGNORED, validate_args=False),
            "IoU": ClassIoU(labels),
            "PixelAccuracy": PixelAccuracy(count, ignore_index=IGNORED, validate_args=False),
        },
        compute_groups=[["MeanIoU", "IoU", "PixelAccuracy"]],
    )
