"""`kpt`: keypoint detection, K points per image, such as the joints of a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.geometry import ResizeGeometry, points_to_original
from brickyard.data.label_kinds import LabelKind, visible_points
from brickyard.parts.registry import create_part
from brickyard.parts.segmentation_heads import finest_level
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.selection import Selection
from brickyard.tasks.task import HeadSpec, Task


class Keypoints(Task):
    """Keypoints of a single object by heatmaps; its "classes" are the K keypoints.

    Reads `features`, `image` (for its size) and `targets/kpt` (B, K, 3): x and y in pixels, where the center of the
    first pixel is (0.5, 0.5), and the visibility as in COCO, 0 where the keypoint is unknown. Optional: `labelled/kpt`
    (B,) bool, the rows that have a label. Writes `kpt/heatmaps` (B, K, h, w), `kpt/keypoints` (B, K, 2) in
    pixels, `kpt/scores` (B, K) in [0, 1], `kpt/loss` and a list of images, `kpt/visualization`.

    Variants:
        fpn: A light feature pyramid, summed at stride 4.
        deconv: SimpleBaseline's transposed convolutions on the last map.
    """

    name: ClassVar[str] = "kpt"
    hub_task: ClassVar[str] = "keypoint-detection"
    variants: ClassVar[tuple[str, ...]] = ("fpn", "deconv")
    main_output: ClassVar[str] = "keypoints"
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"kpt": LabelKind.POINTS}
    is_dense: ClassVar[bool] = True

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"kpt"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        labelled = [f"targets/{head.name}", f"labelled/{head.name}?"]
        labels = head.class_names
        return {
            **_head(backbone, head),
            "decode": BrickNotTrainable(
                create_part("keypoint_decode"),
                input_names=["./heatmaps", "image"],
                output_names=["./keypoints", "./scores"],
                calculate_gradients=False,
            ),
            "loss": BrickLoss(
                create_part("keypoint_loss"),
                input_names=["./heatmaps", "image", *labelled],
                output_names=["./loss"],
            ),
            "metrics": BrickMetrics(create_part("keypoint_metrics"), input_names=["./keypoints", *labelled]),
            "visualization": BrickPerImageVisualization(
                create_part("draw_keypoints", labels=labels),
                input_names={"image": "image", "keypoints": "./keypoints", "scores": "./scores"},
                output_names=["./visualization"],
            ),
        }

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 17  # a body in COCO

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the selected keypoints, the highest score first: {"label", "class", "score", "x", "y"}, in pixels."""
        (x, y), scores = values["keypoints"], values["scores"]
        return [
            {
                "label": labels[index],
                "class": int(index),
                "score": float(scores[index]),
                "x": float(x[index]),
                "y": float(y[index]),
            }
            for index in np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= 0)]
        ]

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        scores = values["scores"]
        return {**values, "scores": np.where(selection.mask(scores, np.arange(len(scores))), scores, -1.0)}

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map the `keypoints` to pixels of the original image, (2, K): every x, then every y."""
        return {**values, "keypoints": points_to_original(torch.from_numpy(values["keypoints"]), geometry).numpy().T}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return `keypoints` (B, K, 2), and `scores` (B, K) of 1 for known points, else 0."""
        return {"keypoints": labels[..., :2], "scores": visible_points(labels).float()}


def _head(backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
    """Build the bricks up to the heatmaps."""
    features = backbone.features
    if head.variant == "deconv":
        part = create_part(
            "deconvolution_heatmaps",
            in_channels=features.channels[-1],
            stride=features.strides[-1],
            num_classes=head.num_classes,
        )
        return {"head": BrickTrainable(part, input_names=["features[-1]"], output_names=["./heatmaps"])}
    bricks, read, spec = pyramid_of(features, _from_stride_4)
    part = create_part(
        "segmentation_fpn",
        channels=list(spec.channels),
        strides=list(spec.strides),
        num_classes=head.num_classes,
    )
    return {**bricks, "head": BrickTrainable(part, input_names=[read], output_names=["./heatmaps"])}


def _from_stride_4(strides: Sequence[int]) -> list[int]:
    return [*range(finest_level(strides, at_least=4), len(strides))]
