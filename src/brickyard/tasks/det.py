"""`det`: where on the picture are things, and which of K classes each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import numpy as np

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.parts.detection import centernet, fcos, retinanet, ssdlite
from brickyard.parts.detection.points import levels_from
from brickyard.parts.registry import create_part
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.task import HeadSpec, Task

_SHOWN = 0.3  # the score from which a detection is a result


@final
@dataclass(frozen=True)
class _Variant:
    """A head's first stride, its outputs, the parts of its loss, and whether the loss must know its maps' strides."""

    finest: int
    outputs: tuple[str, ...]
    losses: tuple[str, ...]
    loss_knows_strides: bool = False


_VARIANTS = {
    "fcos": _Variant(
        finest=fcos.FINEST,
        outputs=("./logits", "./regression", "./centerness", "./anchors"),
        losses=("./loss_cls", "./loss_box", "./loss_centerness"),
        loss_knows_strides=True,
    ),
    "retinanet": _Variant(
        finest=retinanet.FINEST,
        outputs=("./logits", "./regression", "./anchors"),
        losses=("./loss_cls", "./loss_box"),
    ),
    "ssdlite": _Variant(
        finest=ssdlite.FINEST,
        outputs=("./logits", "./regression", "./anchors"),
        losses=("./loss_cls", "./loss_box"),
    ),
    "centernet": _Variant(
        finest=centernet.FINEST,
        outputs=("./heatmap", "./sizes", "./offsets", "./points"),
        losses=("./loss_cls", "./loss_box", "./loss_offset"),
        loss_knows_strides=True,
    ),
}


class Detection(Task):
    """Object detection.

    Reads `features`, `image` (for its size) and `targets/det`: a list with {"boxes": (M, 4) xyxy pixels, "labels":
    (M,)} for each picture, or both already padded by `PadBoxes`, which a training step compiled as one graph wants.
    Optional: `labelled/det` (B,) bool. Writes
    `det/boxes` (B, N, 4) xyxy pixels, `det/scores` (B, N) and `det/labels` (B, N) int64: best first, N = 100, padded
    with score 0 and label -1; what the head regresses, by variant; `det/loss` with its parts `det/loss_cls`,
    `det/loss_box`, ...; and a list of pictures, `det/visualization`.

    Variants: `fcos` has one point a cell; `retinanet` nine anchors a cell; `ssdlite` six, with depthwise convolutions
    and no pyramid, for small devices; `centernet` finds peaks in a heatmap and needs no non-maximum suppression.
    """

    name: ClassVar[str] = "det"
    hub_task: ClassVar[str] = "object-detection"
    variants: ClassVar[tuple[str, ...]] = tuple(_VARIANTS)
    main_output: ClassVar[str] = "boxes"
    is_dense: ClassVar[bool] = True

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"det"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        labels = head.class_names
        labelled = f"labelled/{head.name}?"
        variant = _VARIANTS[head.variant]
        pyramid, maps, spec = pyramid_of(backbone.features, partial(levels_from, finest=variant.finest))
        predicted = list(variant.outputs)
        module = create_part(
            head.variant, channels=list(spec.channels), strides=list(spec.strides), num_classes=head.num_classes
        )
        loss_args = {"strides": list(module.strides)} if variant.loss_knows_strides else {}
        return {
            **pyramid,
            "head": BrickTrainable(module, input_names=[maps, "image"], output_names=predicted),
            "decode": BrickNotTrainable(
                create_part(f"{head.variant}_decode"),
                input_names=[*predicted, "image"],
                output_names=["./boxes", "./scores", "./labels"],
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
                create_part(f"{head.variant}_loss", **loss_args),
                input_names=[*predicted, "./target_boxes", "./target_labels", labelled],
                output_names=["./loss", *variant.losses],
                loss_output_names=["./loss"],
            ),
            "metrics": BrickMetrics(
                create_part("detection_metrics"),
                input_names=["./boxes", "./scores", "./labels", "./target_boxes", "./target_labels", labelled],
                tags=Tag.METRIC_INFERENCE,
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_boxes", labels=labels, score_threshold=_SHOWN),
                input_names={"image": "image", "boxes": "./boxes", "scores": "./scores", "labels": "./labels"},
                output_names=["./visualization"],
            ),
        }

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 80  # COCO's

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """What was found with a score of 0.3 or more: {"label", "class", "score", "box": [x1, y1, x2, y2]}."""
        return [
            {"label": labels[index], "class": int(index), "score": float(score), "box": [float(side) for side in box]}
            for box, score, index in zip(values["boxes"], values["scores"], values["labels"], strict=True)
            if index >= 0 and score >= _SHOWN
        ]

    def on_image(self, values: Mapping[str, Any], seen: tuple[int, int], shown: tuple[int, int]) -> dict[str, Any]:
        """The same values with the `boxes` (N, 4) of a picture of another size."""
        height, width = shown[0] / seen[0], shown[1] / seen[1]
        return {**values, "boxes": values["boxes"] * np.array([width, height, width, height], dtype=np.float32)}
