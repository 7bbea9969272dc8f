"""`det`: object detection, boxes of K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch

from brickyard.core.conversions import torch_to_numpy
from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.geometry import ResizeGeometry, boxes_to_original
from brickyard.data.label_kinds import LabelKind
from brickyard.parts.detection import centernet, fcos, retinanet, ssdlite
from brickyard.parts.detection.points import levels_from
from brickyard.parts.registry import create_part
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.selection import Selection
from brickyard.tasks.task import HeadSpec, Task

_SCORE_THRESHOLD = 0.3  # of detections that are drawn and reported by default


@final
@dataclass(frozen=True)
class _Variant:
    """The parts and names of a head.

    Attributes:
        finest: The stride of the finest feature map that it reads.
        head, decode, loss: The names of its parts.
        outputs: The outputs of its head.
        sub_losses: The terms of its loss.
        loss_takes_strides: Whether the part of the loss takes the strides of the feature maps.
    """

    finest: int
    head: str
    decode: str
    loss: str
    outputs: tuple[str, ...]
    sub_losses: tuple[str, ...]
    loss_takes_strides: bool = False


_VARIANTS = {
    "fcos": _Variant(
        finest=fcos.FINEST,
        head="fcos",
        decode="fcos_decode",
        loss="fcos_loss",
        outputs=("./logits", "./regression", "./centerness", "./anchors"),
        sub_losses=("./loss_cls", "./loss_box", "./loss_centerness"),
        loss_takes_strides=True,
    ),
    "retinanet": _Variant(
        finest=retinanet.FINEST,
        head="retinanet",
        decode="retinanet_decode",
        loss="retinanet_loss",
        outputs=("./logits", "./regression", "./anchors"),
        sub_losses=("./loss_cls", "./loss_box"),
    ),
    "ssdlite": _Variant(
        finest=ssdlite.FINEST,
        head="ssdlite",
        decode="ssdlite_decode",
        loss="ssdlite_loss",
        outputs=("./logits", "./regression", "./anchors"),
        sub_losses=("./loss_cls", "./loss_box"),
    ),
    "centernet": _Variant(
        finest=centernet.FINEST,
        head="centernet",
        decode="centernet_decode",
        loss="centernet_loss",
        outputs=("./heatmap", "./sizes", "./offsets", "./points"),
        sub_losses=("./loss_cls", "./loss_box", "./loss_offset"),
        loss_takes_strides=True,
    ),
}


class Detection(Task):
    """Object detection.

    Reads `features`, `image` (for its size) and `targets/det`: a list with {"boxes": (M, 4) xyxy pixels, "labels":
    (M,)} for each image, or both already padded by `PadBoxes`, which a training step compiled as one graph needs.
    Optional: `labelled/det` (B,) bool. Writes
    `det/boxes` (B, N, 4) xyxy pixels, `det/scores` (B, N) and `det/labels` (B, N) int64: best first, N = 100, padded
    with score 0 and label -1; the raw outputs of the head, by variant; `det/loss`, the sum of its terms `det/loss_cls`,
    `det/loss_box`, ...; and a list of images, `det/visualization`.

    Variants: `fcos` has one point per cell; `retinanet` nine anchors per cell; `ssdlite` six, with depthwise
    convolutions and no pyramid, for small devices; `centernet` detects peaks in a heatmap, without non-maximum
    suppression.
    """

    name: ClassVar[str] = "det"
    hub_task: ClassVar[str] = "object-detection"
    variants: ClassVar[tuple[str, ...]] = tuple(_VARIANTS)
    main_output: ClassVar[str] = "boxes"
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"det": LabelKind.BOXES}
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
            variant.head, channels=list(spec.channels), strides=list(spec.strides), num_classes=head.num_classes
        )
        loss_args = {"strides": list(module.strides)} if variant.loss_takes_strides else {}
        return {
            **pyramid,
            "head": BrickTrainable(module, input_names=[maps, "image"], output_names=predicted),
            "decode": BrickNotTrainable(
                create_part(variant.decode),
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
                create_part(variant.loss, **loss_args),
                input_names=[*predicted, "./target_boxes", "./target_labels", labelled],
                output_names=["./loss", *variant.sub_losses],
                loss_output_names=["./loss"],
            ),
            "metrics": BrickMetrics(
                create_part("detection_metrics"),
                input_names=["./boxes", "./scores", "./labels", "./target_boxes", "./target_labels", labelled],
                tags=Tag.METRIC_INFERENCE,
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_boxes", labels=labels, score_threshold=_SCORE_THRESHOLD),
                input_names={"image": "image", "boxes": "./boxes", "scores": "./scores", "labels": "./labels"},
                output_names=["./visualization"],
            ),
        }

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 80  # as in COCO

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the detections, the highest score first: {"label", "class", "score", "box": [x1, y1, x2, y2]}."""
        return [
            {"label": labels[index], "class": int(index), "score": float(score), "box": [float(side) for side in box]}
            for box, score, index in zip(values["boxes"], values["scores"], values["labels"], strict=True)
            if index >= 0
        ]

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        labels = values["labels"]
        scores = np.where(labels >= 0, values["scores"], -1.0)  # padding is no candidate
        return {**values, "labels": np.where(selection.mask(scores, labels), labels, -1)}

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map the `boxes` (N, 4) to pixels of the original image."""
        return {**values, "boxes": boxes_to_original(torch.from_numpy(values["boxes"]), geometry).numpy()}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return `boxes`, `scores` of 1 and `labels`, a list with the arrays of each image, without boxes to ignore."""
        arrays = [
            {name: torch_to_numpy(image[name]) for name in ("boxes", "labels")} for image in without_ignored(labels)
        ]
        return {
            "boxes": [image["boxes"] for image in arrays],
            "scores": [np.ones(len(image["labels"])) for image in arrays],
            "labels": [image["labels"] for image in arrays],
        }


def without_ignored(labels: Any) -> list[dict[str, Any]]:
    """Return the label of each image of a batch, a list or padded, without the rows of boxes to ignore."""
    if isinstance(labels, Mapping):
        labels = [{name: value[row] for name, value in labels.items()} for row in range(len(labels["labels"]))]
    return [
        {name: image[name][~image["ignore"]] for name in image} if "ignore" in image else dict(image)
        for image in labels
    ]
