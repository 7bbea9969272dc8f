"""From scores and boxes of every anchor to a fixed number of detections a picture."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from brickyard.parts.detection.boxes import clip


class SuppressingDecode(nn.Module, ABC):
    """What the decoders with non-maximum suppression share: their four settings, see `detections`."""

    def __init__(self, score_threshold: float, iou_threshold: float, candidates: int, count: int) -> None:
        super().__init__()
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.candidates = candidates
        self.count = count

    def suppressed(self, scores: Tensor, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Call `detections` with these settings, for images (B, C, H, W)."""
        return detections(
            scores,
            boxes,
            image.shape[-2:],
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            candidates=self.candidates,
            count=self.count,
        )


def detections(
    scores: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Non-maximum suppression of a whole batch, class by class, in one call and with fixed sizes.

    The steps are torchvision's (`FCOS.postprocess_detections`), but for one: the best candidates are chosen over all
    feature maps at once instead of each for itself, so that the cost does not grow with the number of maps.

    Args:
        scores: (B, P, K), in [0, 1].
        boxes: (B, P, 4), clipped here.
        image_size: (H, W).
        score_threshold: Only detections with a higher score.
        iou_threshold: Of two boxes of one class that overlap more, the one with the lower score goes.
        candidates: How many of the best scores of a picture take part.
        count: N.

    Returns:
        boxes (B, N, 4), scores (B, N) and labels (B, N) int64, best first, padded with boxes of 0, score 0 and label
        -1. Floats are float32, whatever came in.
    """
    batch, prefixes, classes = scores.shape
    height, width = image_size
    best, index = scores.float().flatten(1).topk(min(candidates, prefixes * classes), dim=1)
    labels = index % classes
    place = torch.div(index, classes, rounding_mode="floor")
    chosen = clip(boxes.float().gather(1, place[..., None].expand(-1, -1, 4)), image_size)
    valid = best > score_threshold

    # Every picture and class gets a part of the plane of its own: pictures side by side, classes below each other. In
    # one row, coordinates would grow to millions, where float32 has no tenths of a pixel.
    pictures = torch.arange(batch, device=scores.device)[:, None].expand_as(labels)
    shift = torch.stack([pictures * (width + 2), labels * (height + 2)], dim=-1).float()
    # What is below the threshold shares one box, off the plane, so that the first of them suppresses all others. That
    # box and one more stand at the end as well: torchvision tells the compiler that two boxes at least are kept.
    apart = torch.tensor([[-4.0, -4.0, -2.0, -2.0], [-8.0, -8.0, -6.0, -6.0]], device=scores.device)
    spread = torch.where(valid[..., None], chosen + torch.cat([shift, shift], dim=-1), apart[0])
    kept = nms(torch.cat([spread.flatten(0, 1), apart]), functional.pad(best.flatten(), (0, 2)), iou_threshold)

    survives = torch.zeros_like(functional.pad(valid.flatten(), (0, 2))).scatter(0, kept, True)[:-2].view_as(valid)
    return _fixed(best.masked_fill(~(survives & valid), 0), chosen, labels, count)


def _fixed(scores: Tensor, boxes: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best N of (B, C) candidates, those of score 0 blanked out."""
    missing = max(count - scores.shape[1], 0)
    scores, order = functional.pad(scores, (0, missing)).topk(count, dim=1)
    boxes = functional.pad(boxes, (0, 0, 0, missing)).gather(1, order[..., None].expand(-1, -1, 4))
    labels = functional.pad(labels, (0, missing)).gather(1, order)
    found = scores > 0
    return boxes * found[..., None], scores, labels.masked_fill(~found, -1)
