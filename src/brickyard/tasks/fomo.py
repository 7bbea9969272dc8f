"""`fomo`: detection of objects as points, the centres of their boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from brickyard.core.conversions import torch_to_numpy
from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.geometry import ResizeGeometry, points_to_original
from brickyard.data.label_kinds import LabelKind
from brickyard.parts.detection import fomo
from brickyard.parts.detection.points import levels_from
from brickyard.parts.registry import create_part
from brickyard.tasks.det import without_ignored
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.selection import Selection
from brickyard.tasks.task import HeadSpec, Task

_SCORE_THRESHOLD = 0.3  # of points that are measured, drawn and reported by default


class PointDetection(Task):
    """Detection of the centres of objects (FOMO): lighter than `det`, without the sizes of objects.

    Reads `features`, `image` (for its size) and `targets/fomo`, the boxes that `det` reads; their centres are learned.
    Optional: `labelled/fomo` (B,) bool. Writes `fomo/points` (B, N, 2), x and y in pixels, `fomo/scores` (B, N) and
    `fomo/labels` (B, N) int64: best first, N = 100, padded with score 0 and label -1; `fomo/heatmap` (B, K, h, w),
    logits at stride 8; `fomo/cells` (B, 2, h, w), the positions of its cells; `fomo/loss` and a list of images,
    `fomo/visualization`.

    A point is the centre of a cell, so it is exact to half a stride, 4 pixels in x and in y. The metrics F1, precision
    and recall are those of the points with a score from 0.3 on; a point is correct if it is at most one stride away
    from the centre of a box of its class, and each box is matched once.

    Variants: `tower`, a feature pyramid with a residual block.
    """

    name: ClassVar[str] = "fomo"
    hub_task: ClassVar[str] = "object-detection"
    variants: ClassVar[tuple[str, ...]] = ("tower",)
    main_output: ClassVar[str] = "points"
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"fomo": LabelKind.BOXES}
    is_dense: ClassVar[bool] = True

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"fomo"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        labelled = f"labelled/{head.name}?"
        pyramid, maps, spec = pyramid_of(backbone.features, partial(levels_from, finest=fomo.FINEST))
        module = create_part(
            "fomo", channels=list(spec.channels), strides=list(spec.strides), num_classes=head.num_classes
        )
        distance = float(module.strides[0])
        return {
            **pyramid,
            "head": BrickTrainable(module, input_names=[maps, "image"], output_names=["./heatmap", "./cells"]),
            "decode": BrickNotTrainable(
                create_part("point_decode"),
                input_names=["./heatmap", "./cells"],
                output_names=["./points", "./scores", "./labels"],
                tags=Tag.INFERENCE,
                calculate_gradients=False,
            ),
            "targets": BrickNotTrainable(
                create_part("pad_boxes", num_classes=head.num_classes),
                input_names=[f"targets/{head.name}", "image"],
                output_names=["./target_boxes", "./target_labels"],
                tags={Tag.LOSS, Tag.METRIC_INFERENCE},
                calculate_gradients=False,
            ),
            "loss": BrickLoss(
                create_part("fomo_loss", strides=list(module.strides)),
                input_names=["./heatmap", "./cells", "./target_boxes", "./target_labels", labelled],
                output_names=["./loss"],
            ),
            "metrics": BrickMetrics(
                create_part("point_metrics", distance=distance, score_threshold=_SCORE_THRESHOLD),
                input_names=["./points", "./scores", "./labels", "./target_boxes", "./target_labels", labelled],
                tags=Tag.METRIC_INFERENCE,
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_points", labels=head.class_names, score_threshold=_SCORE_THRESHOLD),
                input_names={"image": "image", "points": "./points", "scores": "./scores", "labels": "./labels"},
                output_names=["./visualization"],
            ),
        }

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 80  # as in COCO

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the points, the highest score first: {"label", "class", "score", "x", "y"}, in pixels."""
        return [
            {"label": labels[index], "class": int(index), "score": float(score), "x": float(x), "y": float(y)}
            for x, y, score, index in zip(*values["points"], values["scores"], values["labels"], strict=True)
            if index >= 0
        ]

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        labels = values["labels"]
        scores = np.where(labels >= 0, values["scores"], -1.0)  # padding is no candidate
        return {**values, "labels": np.where(selection.mask(scores, labels), labels, -1)}

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map the `points` to pixels of the original image, (2, N): every x, then every y."""
        return {**values, "points": points_to_original(torch.from_numpy(values["points"]), geometry).numpy().T}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return `points`, `scores` of 1 and `labels` as a list with those of each image, without boxes to ignore."""
        objects = without_ignored(labels)
        boxes, classes = ([torch_to_numpy(image[name]) for image in objects] for name in ("boxes", "labels"))
        return {
            "points": [((each[:, :2] + each[:, 2:]) / 2).T for each in boxes],
            "scores": [np.ones(len(each)) for each in classes],
            "labels": classes,
        }
