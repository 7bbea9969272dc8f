"""Detection targets: check and pad the boxes of a batch, and gather the boxes assigned to anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.core.compiling import not_compiled
from brickyard.errors import BrickInputError

_MIN_PADDED = 16  # M is this times a power of two, so that a compiled loss has few different shapes
_TOLERANCE = 1.0  # pixels that boxes may exceed the image, because of rounding when images are resized


@final
class PadBoxes(nn.Module):
    """Pad the boxes of the images of a batch to one tensor.

    To compile a training step with `fullgraph=True`, pad before the step: call `PadBoxes(K)(targets, image)` in the
    training loop and pass the two tensors as `{"boxes": ..., "labels": ...}` in the batch. Padded targets are returned
    unchanged.

    Args:
        num_classes: K.

    Example:
        >>> targets = [{"boxes": torch.tensor([[0.0, 0.0, 4.0, 8.0]]), "labels": torch.tensor([1])}]
        >>> boxes, labels = PadBoxes(num_classes=2)(targets, torch.zeros(1, 3, 32, 32))
        >>> boxes.shape, labels[0, :3].tolist()
        (torch.Size([1, 16, 4]), [1, -1, -1])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(
        self, targets: Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor], image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pad the targets of a batch.

        Args:
            targets: For each image {"boxes": (M, 4), "labels": (M,) integers in [0, K)}, M may be 0; or padded targets
                {"boxes": (B, M, 4), "labels": (B, M)}.
            image: (B, C, H, W); boxes must be inside the image.

        Returns:
            boxes (B, M, 4) float32, padded with 0, and labels (B, M) int64, padded with -1; M is 16, 32, 64, ...

        Raises:
            BrickInputError: The boxes of an image are not (M, 4), not finite, without area or outside the image; its
                labels are not (M,) integers or are out of range; or the number of targets is not the batch size.
        """
        if isinstance(targets, Mapping):
            return targets["boxes"], targets["labels"]
        padded: tuple[Tensor, Tensor] = self._pad(targets, image)
        return padded

    @not_compiled("lists of boxes differ in length: pad them with `PadBoxes` for fullgraph=True")
    def _pad(self, targets: Sequence[Mapping[str, Tensor]], image: Tensor) -> tuple[Tensor, Tensor]:
        if len(targets) != len(image):
            raise BrickInputError(type(self).__name__, f"targets of {len(image)} images", f"{len(targets)}")
        for index, target in enumerate(targets):
            self._check_shapes(index, target)
        self._check_values(targets, image)
        max_count = max((len(target["boxes"]) for target in targets), default=0)
        size = _MIN_PADDED
        while size < max_count:
            size *= 2
        boxes = image.new_zeros((len(targets), size, 4), dtype=torch.float32)
        labels = torch.full((len(targets), size), -1, dtype=torch.int64, device=image.device)
        for index, target in enumerate(targets):
            count = len(target["boxes"])
            boxes[index, :count] = target["boxes"]
            labels[index, :count] = target["labels"]
        return boxes, labels

    def _check_shapes(self, index: int, target: Mapping[str, Any]) -> None:
        location = f"{type(self).__name__}, image {index}"
        missing = {"boxes", "labels"} - set(target)
        if missing:
            raise BrickInputError(location, 'a dictionary with "boxes" and "labels"', f"no {sorted(missing)}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise BrickInputError(location, "boxes (M, 4), (x1, y1, x2, y2) in pixels", f"shape {tuple(boxes.shape)}")
        if labels.shape != boxes.shape[:1]:
            raise BrickInputError(location, f"labels ({len(boxes)},) for its boxes", f"shape {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise BrickInputError(location, "labels of an integer dtype", f"{labels.dtype}")

    def _check_values(self, targets: Sequence[Mapping[str, Tensor]], image: Tensor) -> None:
        """Check the boxes of all images together, with a single synchronisation of the GPU."""
        height, width = image.shape[-2:]
        boxes = torch.cat([target["boxes"].detach().float().reshape(-1, 4) for target in targets])
        labels = torch.cat([target["labels"] for target in targets])
        limit = boxes.new_tensor([width, height, width, height]) + _TOLERANCE
        invalid = torch.stack(
            [
                ~boxes.isfinite().all(dim=1),
                (boxes[:, 2:] <= boxes[:, :2]).any(dim=1),
                ((boxes < -_TOLERANCE) | (boxes > limit)).any(dim=1),
                (labels < 0) | (labels >= self.num_classes),
            ]
        )
        if not invalid.any():
            return
        row = int(invalid.any(dim=0).nonzero()[0])
        check = int(invalid[:, row].nonzero()[0])
        index = 0
        while row >= len(targets[index]["labels"]):
            row -= len(targets[index]["labels"])
            index += 1
        expected = [
            "finite numbers",
            "x1 < x2 and y1 < y2",
            f"boxes inside the image of {width}x{height} pixels",
            f"labels in [0, {self.num_classes})",
        ][check]
        values = labels if check == 3 else boxes
        offset = sum(len(target["labels"]) for target in targets[:index]) + row
        raise BrickInputError(
            f"{type(self).__name__}, image {index}, box {row}", expected, f"{values[offset].tolist()}"
        )


def gather_matches(boxes: Tensor, labels: Tensor, match: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the assigned box and label of each anchor.

    Args:
        boxes: (B, M, 4).
        labels: (B, M).
        match: (B, P), an index into M, or negative for anchors without a box.
        anchors: (P, 4).

    Returns:
        boxes (B, P, 4) and labels (B, P). For anchors without a box these are the anchor itself, for which all losses
        and gradients are finite, and -1.
    """
    index = match.clamp(min=0)
    has_box = match >= 0
    gathered = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return torch.where(has_box[..., None], gathered, anchors), torch.where(has_box, labels.gather(1, index), -1)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Encode labels (B, P) as one-hot vectors (B, P, K) with the dtype and shape of `like`; zeros for -1."""
    return (labels[..., None] == torch.arange(like.shape[-1], device=like.device)).to(like.dtype)


def labelled_mask(labelled: Tensor | None, batch: Tensor) -> Tensor:
    """Return `labelled` (B,) bool, or all True if it is None."""
    return torch.ones_like(batch[:, 0, 0], dtype=torch.bool) if labelled is None else labelled
