"""COCO's average precision of masks and of key points, computed by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from brickyard.core.conversions import torch_to_numpy
from brickyard.parts import run_lengths
from brickyard.parts.detection.targets import ignored_classes, is_ignored
from brickyard.parts.instances.mask_images import paste_mask
from brickyard.parts.instances.oks import object_area

# The names of the values of `COCOeval_faster.stats`, in their order.
_OF_MASKS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")
_OF_POINTS = ("map", "map_50", "map_75", "map_medium", "map_large", "mar_20")

Annotation = dict[str, Any]


class _CocoAveragePrecision(Metric):
    """Base class: objects of all images as rows of numbers, which processes with different numbers of images gather."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    detections: list[Tensor]
    detection_counts: list[Tensor]
    targets: list[Tensor]
    target_counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("detections", "detection_counts", "targets", "target_counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def add_rows(self, detections: Tensor, is_detection: Tensor, targets: Tensor, is_target: Tensor) -> None:
        """Add the rows (B, N, ...) that are detections, (B, N) bool, and those (B, M, ...) that are targets."""
        self.detections.append(detections[is_detection])
        self.detection_counts.append(is_detection.sum(dim=1))
        self.targets.append(targets[is_target])
        self.target_counts.append(is_target.sum(dim=1))


@final
class MaskAveragePrecision(_CocoAveragePrecision):
    """COCO's mean average precision and recall of masks ("segm").

    Masks of predictions are resized to the images. All masks are stored as run lengths.

    Args:
        prefix: Before the names of the values.
    """

    detection_masks: list[Tensor]
    target_masks: list[Tensor]
    sizes: list[Tensor]

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self.prefix = prefix
        for name in ("detection_masks", "target_masks", "sizes"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        masks: Tensor,
        target_labels: Tensor,
        target_masks: Tensor,
        labelled: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            boxes: (B, N, 4), to which masks are cropped.
            scores: (B, N).
            labels: (B, N), -1 for padding.
            masks: (B, N, h, w), in [0, 1].
            target_labels: (B, M), -1 for padding; below -1 for objects to ignore, see `PadBoxes`. As COCO's crowds they
                are not to be detected, and detections on them do not count.
            target_masks: (B, M, H, W), of 0 and 1.
            labelled: (B,) bool; unlabelled images are ignored. None for all labelled.
        """
        rows = torch.ones_like(labels[:, 0], dtype=torch.bool) if labelled is None else labelled
        height, width = target_masks.shape[-2:]
        is_detection, is_target = (labels >= 0) & rows[:, None], (target_labels != -1) & rows[:, None]
        pairs = zip(torch_to_numpy(masks[is_detection]), boxes[is_detection].tolist(), strict=True)
        detected = [_as_bytes(paste_mask(mask, box, (height, width))) for mask, box in pairs]
        expected = [_as_bytes(mask > 0) for mask in torch_to_numpy(target_masks[is_target])]
        lengths = labels.new_zeros(labels.shape), target_labels.new_zeros(target_labels.shape)
        for length, chosen, texts in ((lengths[0], is_detection, detected), (lengths[1], is_target, expected)):
            length[chosen] = torch.tensor([len(text) for text in texts], dtype=length.dtype, device=length.device)
        self.add_rows(
            torch.stack([scores.float(), labels, lengths[0]], dim=-1)[rows],
            is_detection[rows],
            torch.stack([target_labels, lengths[1]], dim=-1)[rows],
            is_target[rows],
        )
        self.detection_masks.append(_joined(detected, labels.device))
        self.target_masks.append(_joined(expected, labels.device))
        self.sizes.append(torch.tensor([height, width], device=labels.device).expand(int(rows.sum()), 2))

    def compute(self) -> dict[str, Tensor]:
        """Return precision (`map`, `map_50`, `map_small`, ...) and recall (`mar_1`, ...); nan without targets."""
        sizes = dim_zero_cat(self.sizes).tolist()
        detections, targets = dim_zero_cat(self.detections).cpu(), dim_zero_cat(self.targets).cpu()
        detected = _split_bytes(self.detection_masks, detections[:, 2])
        expected = _split_bytes(self.target_masks, targets[:, 1])
        found, truth = [], []
        for row, image, text in zip(detections.tolist(), _images(self.detection_counts), detected, strict=True):
            encoded = {"size": sizes[image], "counts": text}
            found.append({"image_id": image, "score": row[0], "category_id": int(row[1]), "segmentation": encoded})
        for label, image, text in zip(targets[:, 0], _images(self.target_counts), expected, strict=True):
            encoded = {"size": sizes[image], "counts": text}
            area = int(run_lengths.decode(encoded).sum())
            truth.append({"image_id": image, **_class_of(label), "segmentation": encoded, "area": area})
        values = _average_precision(sizes, truth, found, "segm", _OF_MASKS)
        return {f"{self.prefix}{name}": value for name, value in values.items()}


@final
class KeypointAveragePrecision(_CocoAveragePrecision):
    """COCO's mean average precision and recall of key points, by object key point similarity (OKS).

    The area of an object is 0.53 times that of its box, see `object_area`. Objects without a labelled key point are
    ignored, as with COCO, which takes the 20 best detections of an image.

    Args:
        sigmas: The tolerance of each key point, see `KeypointSpec`.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.sigmas = list(sigmas)

    def update(
        self,
        scores: Tensor,
        labels: Tensor,
        keypoints: Tensor,
        target_boxes: Tensor,
        target_labels: Tensor,
        target_keypoints: Tensor,
        labelled: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            scores: (B, N).
            labels: (B, N), -1 for padding.
            keypoints: (B, N, J, 3).
            target_boxes: (B, M, 4).
            target_labels: (B, M), -1 for padding; below -1 for objects to ignore, see `PadBoxes`.
            target_keypoints: (B, M, J, 3), x, y and visibility, 0 for unknown.
            labelled: (B,) bool; unlabelled images are ignored. None for all labelled.
        """
        rows = torch.ones_like(labels[:, 0], dtype=torch.bool) if labelled is None else labelled
        detections = torch.cat([scores[..., None], labels[..., None], keypoints.flatten(2)], dim=-1).float()
        targets = torch.cat([target_boxes, target_labels[..., None], target_keypoints.flatten(2)], dim=-1)
        self.add_rows(detections[rows], (labels >= 0)[rows], targets[rows], (target_labels != -1)[rows])

    def compute(self) -> dict[str, Tensor]:
        """Return precision (`map`, `map_50`, ...) and recall (`mar_20`); nan without targets."""
        found, truth = [], []
        detections, targets = dim_zero_cat(self.detections).cpu(), dim_zero_cat(self.targets).cpu()
        for row, image in zip(detections.tolist(), _images(self.detection_counts), strict=True):
            found.append({"image_id": image, "score": row[0], "category_id": int(row[1]), "keypoints": row[2:]})
        for target, image in zip(targets, _images(self.target_counts), strict=True):
            (left, top, right, bottom), points = target[:4].tolist(), target[5:]
            annotation = {
                "image_id": image,
                **_class_of(target[4]),
                "bbox": [left, top, right - left, bottom - top],
                "area": object_area(target[:4]).item(),
                "keypoints": points.tolist(),
                "num_keypoints": int((points[2::3] > 0).sum()),
            }
            truth.append(annotation)
        sizes = [(0, 0)] * len(dim_zero_cat(self.target_counts))
        return _average_precision(sizes, truth, found, "keypoints", _OF_POINTS, self.sigmas)


def mask_metrics(prefix: str = "") -> MetricCollection:
    """Create `MaskAveragePrecision`."""
    return MetricCollection({"MaskAveragePrecision": MaskAveragePrecision(prefix)})


def instance_keypoint_metrics(sigmas: Sequence[float]) -> MetricCollection:
    """Create `KeypointAveragePrecision`."""
    return MetricCollection({"KeypointAveragePrecision": KeypointAveragePrecision(sigmas)})


def _average_precision(
    sizes: Sequence[Sequence[int]],
    truth: Sequence[Annotation],
    found: Sequence[Annotation],
    kind: str,
    names: Sequence[str],
    sigmas: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Evaluate annotations in COCO's format, by category and image.

    Args:
        sizes: (height, width) of each image; its id is its index.
        truth: The objects.
        found: The detections.
        kind: COCO's `iouType`.
        names: The names of the first values of `COCOeval_faster.stats`.
        sigmas: Of key points.
    """
    classes = sorted({each["category_id"] for each in (*truth, *found)})
    images = [{"id": index, "height": height, "width": width} for index, (height, width) in enumerate(sizes)]
    shared = {"images": images, "categories": [{"id": index, "name": str(index)} for index in classes], "info": {}}
    coco = COCO({**shared, "annotations": _numbered(truth)})
    evaluator = COCOeval_faster(coco, coco.loadRes(list(found)), iouType=kind, kpt_oks_sigmas=sigmas)
    evaluator.run()
    values = torch.tensor(np.asarray(evaluator.stats, dtype=np.float32)[: len(names)])
    return dict(zip(names, torch.where(values < 0, torch.nan, values), strict=True))


def _numbered(annotations: Iterable[Mapping[str, Any]]) -> list[Annotation]:
    return [{**annotation, "id": index} for index, annotation in enumerate(annotations, start=1)]


def _class_of(label: Tensor) -> dict[str, int]:
    """Return the class of a target, and whether it is ignored as a crowd."""
    is_crowd = bool(is_ignored(label))
    return {"category_id": int(ignored_classes(label) if is_crowd else label), "iscrowd": int(is_crowd)}


def _images(counts: list[Tensor] | Tensor) -> list[int]:
    """Return the index of the image of each object, from the number of objects of each image."""
    joined = dim_zero_cat(counts)
    return torch.repeat_interleave(torch.arange(len(joined), device=joined.device), joined).tolist()


def _as_bytes(pixels: Any) -> bytes:
    text: str = run_lengths.encode(pixels)["counts"]
    return text.encode()


def _joined(texts: Sequence[bytes], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(bytearray(b"".join(texts)), dtype=np.uint8)).to(device)


def _split_bytes(joined: list[Tensor] | Tensor, lengths: Tensor) -> list[str]:
    parts = torch.split(dim_zero_cat(joined).cpu(), lengths.long().tolist())
    return [part.numpy().tobytes().decode() for part in parts]
