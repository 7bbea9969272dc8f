"""The loss of `InstanceFCOS`: that of FCOS, a mask loss on a fixed number of points, and a key point loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from brickyard.parts.detection.boxes import area_of, decode_distances
from brickyard.parts.detection.fcos import FCOSLoss, centerness_in
from brickyard.parts.detection.targets import gather_matches, labelled_mask
from brickyard.parts.instances.decode import in_boxes, mask_logits, points_in_boxes
from brickyard.parts.instances.oks import keypoint_similarity, object_area
from brickyard.parts.instances.targets import select_positives

_PER_OBJECT = 4  # points of an object whose masks are learned
_PER_IMAGE = 16  # points of an image whose masks are learned
_FINER = 2  # the resolution at which masks are compared, to that of the prototypes: strokes may be thinner than a cell
_SMALLEST, _SMOOTH = 1e-6, 1e-3  # the smallest probability, and the constant of the Dice loss


@final
class InstanceLoss(nn.Module):
    """The loss of `FCOSLoss` plus a loss of masks, of key points, or both.

    Masks: binary cross-entropy of the cells in the box of the object, averaged over them as in YOLACT, and Dice loss as
    in CondInst (Tian et al. 2020, https://arxiv.org/abs/2003.05664), of up to 16 points of an image, see
    `select_positives`. They are resized as predictions are, to half the stride of the prototypes.

    Key points: 1 - object key point similarity as in YOLO-Pose, and their distances relative to the size of the object,
    which have a gradient also where the similarity is about 0; and binary cross-entropy of the visibility, whose target
    is whether the key point is labelled.

    Args:
        strides: The strides of the pyramid's maps.
        sigmas: The tolerance of each key point, see `KeypointSpec`; empty without key points.
    """

    def __init__(self, strides: Sequence[int], sigmas: Sequence[float] = ()) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.sigmas = tuple(sigmas)
        self.boxes = FCOSLoss(strides)

    def extra_repr(self) -> str:
        points = " + object key point similarity, distances and cross-entropy of visibility" if self.sigmas else ""
        return f"{self.boxes.extra_repr()} + cross-entropy and Dice loss of masks{points}"

    def forward(
        self,
        logits: Tensor,
        regression: Tensor,
        centerness: Tensor,
        anchors: Tensor,
        boxes: Tensor,
        labels: Tensor,
        labelled: Tensor | None = None,
        coefficients: Tensor | None = None,
        prototypes: Tensor | None = None,
        masks: Tensor | None = None,
        points: Tensor | None = None,
        keypoints: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Compute the total loss and its terms.

        Args:
            logits: (B, P, K); this and the next three, `coefficients`, `prototypes` and `points` are outputs of
                `InstanceFCOS`.
            regression: (B, P, 4).
            centerness: (B, P, 1).
            anchors: (B, P, 4).
            boxes: (B, M, 4), padded target boxes; this, `labels`, `masks` and `keypoints` are outputs of
                `PadInstances`.
            labels: (B, M) int64, -1 for padding; below -1 for objects to ignore.
            labelled: (B,) bool; unlabelled images have no loss and no gradient. None for all labelled.
            coefficients: (B, P, C); None without masks.
            prototypes: (B, C, h, w).
            masks: (B, M, H, W), of 0 and 1.
            points: (B, P, J, 3); None without key points.
            keypoints: (B, M, J, 3), x, y and visibility, 0 for unknown.

        Returns:
            The total, classification, box and centerness loss; with masks the mask loss; with key points the point loss
            and the visibility loss.
        """
        cells, rows = anchors[0], labelled_mask(labelled, logits)[:, None]
        losses = self.boxes(logits, regression, centerness, anchors, boxes, labels, labelled)
        match = self.boxes.match(cells, boxes, labels)
        match = torch.where(rows, match, -1)
        matched, _ = gather_matches(boxes, labels, match, cells)
        further: list[Tensor] = []
        if coefficients is not None and prototypes is not None and masks is not None:
            quality = centerness_in(matched, cells)
            further.append(_mask_loss(coefficients, prototypes, masks, match, matched, quality))
        if points is not None and keypoints is not None:
            predicted = decode_distances(regression.float(), cells).detach()
            further += self._point_losses(points, keypoints, match, matched, predicted)
        total, *terms = losses
        return torch.stack([total, *further]).sum(), *terms, *further

    def _point_losses(
        self, points: Tensor, keypoints: Tensor, match: Tensor, matched: Tensor, predicted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the point and the visibility loss.

        Args:
            points: (B, P, J, 3).
            keypoints: (B, M, J, 3).
            match: (B, P), an index into M, -1 for none.
            matched: (B, P, 4), the target box of each point.
            predicted: (B, P, 4), its predicted box.
        """
        index = match.clamp(min=0)[..., None, None].expand(-1, -1, *keypoints.shape[2:])
        foreground = match >= 0
        target = torch.where(foreground[..., None, None], keypoints.float().gather(1, index), 0)
        known = target[..., 2] > 0
        found = points_in_boxes(points[..., :2].float(), predicted)
        distances = torch.where(known[..., None], found - target[..., :2], 0)
        count = known.sum(dim=2).clamp(min=1)
        similarity = keypoint_similarity(distances, known, object_area(matched), found.new_tensor(self.sigmas))
        sides = area_of(matched).clamp(min=1).sqrt()
        relative = distances.abs().sum(dim=(2, 3)) / (count * sides)
        with_points = known.any(dim=2)
        loss_points = torch.where(with_points, 1 - similarity + relative, 0).sum() / with_points.sum().clamp(min=1)
        visibility = F.binary_cross_entropy_with_logits(points[..., 2].float(), known.float(), reduction="none")
        loss_visibility = torch.where(foreground, visibility.mean(dim=2), 0).sum() / foreground.sum().clamp(min=1)
        return loss_points, loss_visibility


def _mask_loss(
    coefficients: Tensor, prototypes: Tensor, masks: Tensor, match: Tensor, matched: Tensor, quality: Tensor
) -> Tensor:
    """Compute the mask loss of the selected points.

    Args:
        coefficients: (B, P, C).
        prototypes: (B, C, h, w).
        masks: (B, M, H, W).
        match: (B, P), an index into M, -1 for none.
        matched: (B, P, 4), the target box of each point.
        quality: (B, P), by which points are selected.
    """
    index, is_positive = select_positives(match, quality, masks.shape[1], _PER_OBJECT, _PER_IMAGE)
    size = (_FINER * prototypes.shape[-2], _FINER * prototypes.shape[-1])
    small = mask_logits(coefficients.float(), prototypes.float(), index).sigmoid()
    probability = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    image = torch.arange(len(masks), device=masks.device)[:, None]
    target = masks[image, match.gather(1, index).clamp(min=0)]  # (B, S, H, W)
    target = F.adaptive_avg_pool2d(target.float(), size)  # the share of each cell
    boxes = matched.gather(1, index[..., None].expand(-1, -1, 4))
    inside = in_boxes(boxes, masks.shape[-2:], size).float()
    yes, no = probability.clamp(min=_SMALLEST).log(), (1 - probability).clamp(min=_SMALLEST).log()
    cross_entropy = -((target * yes + (1 - target) * no) * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp(min=1)
    common = (probability * target * inside).sum(dim=(2, 3))
    total = ((probability**2 + target**2) * inside).sum(dim=(2, 3))
    dice = 1 - (2 * common + _SMOOTH) / (total + _SMOOTH)
    return torch.where(is_positive, cross_entropy + dice, 0).sum() / is_positive.sum().clamp(min=1)
