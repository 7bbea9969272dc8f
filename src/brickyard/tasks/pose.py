"""`pose`: key points of each object of K classes, such as the joints of each person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from brickyard.core.conversions import torch_to_numpy
from brickyard.core.specs import BackboneSpec, HeadInfo, KeypointSpec
from brickyard.data.geometry import ResizeGeometry, points_to_original
from brickyard.data.label_kinds import LabelKind
from brickyard.tasks.det import Detection, without_ignored
from brickyard.tasks.inst import label_masks, masks_on_image, with_segmentations
from brickyard.tasks.instances import instance_bricks
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.task import HeadSpec

_NUM_KEYPOINTS = 17  # of a body in COCO
_WITH_MASKS = "masks"


class InstanceKeypoints(Detection):
    """Instance key points: detection with J key points for each object.

    Reads `features`, `image` (for its size) and `targets/pose`: for each image {"boxes": (M, 4) xyxy pixels, "labels":
    (M,), "keypoints": (M, J, 3)}: x and y in pixels, where the centre of the first pixel is (0.5, 0.5), and the
    visibility as in COCO, 0 where the key point is unknown; optionally with "ignore" (M,) bool, or all of them padded
    by `PadInstances`, which a training step compiled as one graph needs. Optional: `labelled/pose` (B,) bool. Writes
    `pose/boxes` (B, N, 4) xyxy pixels, `pose/scores` (B, N) and `pose/labels` (B, N) int64 as `det` does, and
    `pose/keypoints` (B, N, J, 3): x and y in pixels and a score in [0, 1], that the key point is labelled; the raw
    outputs of the head; `pose/loss`, the sum of its terms; and a list of images, `pose/visualization`.

    Names, flip pairs, skeleton and tolerances of the key points are those of the data set; they are stored with the
    head, `model["pose/head"].head.keypoints`.

    Variants: `fcos` regresses key points for each point of an FCOS tower. `masks` predicts masks with the same tower,
    too: it reads "masks" as `inst` does, and writes `pose/masks`.
    """

    name: ClassVar[str] = "pose"
    hub_task: ClassVar[str] = "keypoint-detection"
    variants: ClassVar[tuple[str, ...]] = ("fcos", _WITH_MASKS)
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"pose": LabelKind.INSTANCE_POINTS}

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"pose"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        keypoints = head.keypoints or KeypointSpec.numbered(_NUM_KEYPOINTS)
        bricks = instance_bricks(backbone, head, masks=head.variant == _WITH_MASKS, keypoints=keypoints)
        bricks["head"].head = HeadInfo(self.name, head.variant, tuple(head.class_names), keypoints=keypoints)
        return bricks

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 1

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the objects of `on_image`, the highest score first, as `det` does with "keypoints".

        They are a list of [x, y, score], in pixels, in the order of the names that are stored with the head. Masks are
        those of `inst`.
        """
        results = super().results(values, labels)
        points = values["keypoints"][..., values["labels"] >= 0].transpose(2, 0, 1).astype(float)
        results = [{**row, "keypoints": each} for row, each in zip(results, points.tolist(), strict=True)]
        return with_segmentations(results, values) if "masks" in values else results

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map `boxes` (N, 4) to pixels of the original image, and `keypoints` to (J, 3, N); masks as `inst` does."""
        mapped = super().on_image(values, geometry)
        points, scores = values["keypoints"][..., :2], values["keypoints"][..., 2:]
        moved = points_to_original(torch.from_numpy(points), geometry).numpy()
        mapped["keypoints"] = np.concatenate([moved, scores], axis=-1).transpose(1, 2, 0)
        return masks_on_image(mapped, geometry) if "masks" in values else mapped

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return the outputs of `det`, and `keypoints`, a list with (J, 3, M) for each image, 1 as score if known."""
        points = [torch_to_numpy(image["keypoints"]) for image in without_ignored(labels)]
        known = [np.concatenate([each[..., :2], each[..., 2:] > 0], axis=-1).transpose(1, 2, 0) for each in points]
        outputs = {**super().labels_as_outputs(labels, num_classes), "keypoints": known}
        has_masks = all("masks" in image for image in without_ignored(labels))
        return {**outputs, "masks": label_masks(labels)} if has_masks else outputs
