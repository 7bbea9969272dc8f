"""Labelled boxes: checked and padded to one size for a batch, and matched to anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from brickyard.core.compiling import not_compiled
from brickyard.errors import BrickInputError

_LEAST = 16  # boxes: M is this times a power of two, so that a compiled loss sees few shapes
_SLACK = 1.0  # pixels: as much may a box stand out of the picture, by rounding where pictures were resized


@final
class PadBoxes(nn.Module):
    """A list of the boxes of each picture -> one tensor for all.

    A training step that shall be ONE graph for any number of boxes pads before it: `PadBoxes()(targets, image)` in the
    loop, and `{"boxes": ..., "labels": ...}` of the two tensors in the batch; they pass through here as they are.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(
        self, targets: Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor], image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pad the targets of a batch.

        Args:
            targets: For each picture {"boxes": (M, 4), "labels": (M,) integers in [0, K)}, M may be 0; or both padded.
            image: (B, C, H, W); its size bounds the boxes.

        Returns:
            boxes (B, M, 4) float32, padded with 0, and labels (B, M) int64, padded with -1; M is 16, 32, 64, ...

        Raises:
            BrickInputError: A picture's boxes are not (M, 4), not finite, without area or outside the picture; its
                labels are not (M,) integers, or out of range; or the list has another length than the batch.
        """
        if isinstance(targets, Mapping):
            return targets["boxes"], targets["labels"]
        padded: tuple[Tensor, Tensor] = self._pad(targets, image)
        return padded

    @not_compiled("lists of boxes differ in length: pad them with `PadBoxes` for fullgraph=True")
    def _pad(self, targets: Sequence[Mapping[str, Tensor]], image: Tensor) -> tuple[Tensor, Tensor]:
        if len(targets) != len(image):
            raise BrickInputError(type(self).__name__, f"targets of {len(image)} pictures", f"{len(targets)}")
        for index, target in enumerate(targets):
            self._check_shapes(index, target)
        self._check_values(targets, image)
        most = max((len(target["boxes"]) for target in targets), default=0)
        size = _LEAST
        while size < most:
            size *= 2
        boxes = image.new_zeros((len(targets), size, 4), dtype=torch.float32)
        labels = torch.full((len(targets), size), -1, dtype=torch.int64, device=image.device)
        for index, target in enumerate(targets):
            count = len(target["boxes"])
            boxes[index, :count] = target["boxes"]
            labels[index, :count] = target["labels"]
        return boxes, labels

    def _check_shapes(self, index: int, target: Mapping[str, Any]) -> None:
        location = f"{type(self).__name__}, picture {index}"
        missing = {"boxes", "labels"} - set(target)
        if missing:
            raise BrickInputError(location, 'a dictionary with "boxes" and "labels"', f"no {sorted(missing)}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise BrickInputError(location, "boxes (M, 4), (x1, y1, x2, y2) in pixels", f"shape {tuple(boxes.shape)}")
        if labels.shape != boxes.shape[:1]:
            raise BrickInputError(location, f"labels ({len(boxes)},) for its boxes", f"shape {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise BrickInputError(location, "labels of an integer type", f"{labels.dtype}")

    def _check_values(self, targets: Sequence[Mapping[str, Tensor]], image: Tensor) -> None:
        """Look at all boxes at once: a look at each would wait for the GPU each time."""
        height, width = image.shape[-2:]
        boxes = torch.cat([target["boxes"].detach().float().reshape(-1, 4) for target in targets])
        labels = torch.cat([target["labels"] for target in targets])
        limit = boxes.new_tensor([width, height, width, height]) + _SLACK
        wrong = torch.stack(
            [
                ~boxes.isfinite().all(dim=1),
                (boxes[:, 2:] <= boxes[:, :2]).any(dim=1),
                ((boxes < -_SLACK) | (boxes > limit)).any(dim=1),
                (labels < 0) | (labels >= self.num_classes),
            ]
        )
        if not wrong.any():
            return
        row = int(wrong.any(dim=0).nonzero()[0])
        kind = int(wrong[:, row].nonzero()[0])
        index = 0
        while row >= len(targets[index]["labels"]):
            row -= len(targets[index]["labels"])
            index += 1
        expected = [
            "finite numbers",
            "x1 < x2 and y1 < y2",
            f"boxes inside the picture of {width}x{height} pixels",
            f"labels in [0, {self.num_classes})",
        ][kind]
        found = labels if kind == 3 else boxes
        offset = sum(len(target["labels"]) for target in targets[:index]) + row
        raise BrickInputError(
            f"{type(self).__name__}, picture {index}, box {row}", expected, f"{found[offset].tolist()}"
        )


def matched(boxes: Tensor, labels: Tensor, match: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The box and label of each anchor.

    Args:
        boxes: (B, M, 4).
        labels: (B, M).
        match: (B, P), an index into M, negative for anchors without a box.
        anchors: (P, 4).

    Returns:
        boxes (B, P, 4), where there is none the anchor itself, for which every loss and its gradient are finite; and
        labels (B, P), -1 where there is none.
    """
    index = match.clamp(min=0)
    found = match >= 0
    own = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return torch.where(found[..., None], own, anchors), torch.where(found, labels.gather(1, index), -1)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Labels (B, P) -> (B, P, K) of the type and size of `like`; a row of zeros for -1."""
    return (labels[..., None] == torch.arange(like.shape[-1], device=like.device)).to(like.dtype)


def all_labelled(labelled: Tensor | None, batch: Tensor) -> Tensor:
    """Which pictures are labelled, (B,) bool; all where nobody says."""
    return torch.ones_like(batch[:, 0, 0], dtype=torch.bool) if labelled is None else labelled
