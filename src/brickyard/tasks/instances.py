"""The bricks of the heads that predict a mask or key points for each object."""

from __future__ import annotations

from functools import partial
from typing import Any

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import BackboneSpec, KeypointSpec
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.parts.detection.points import levels_from
from brickyard.parts.instances.fcos import FINEST
from brickyard.parts.registry import create_part
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.task import HeadSpec

_NUM_PROTOTYPES = 16
_SCORE_THRESHOLD = 0.3  # of objects that are drawn and reported by default
_DETECTIONS = ("boxes", "scores", "labels")


def instance_bricks(
    backbone: BackboneSpec, head: HeadSpec, *, masks: bool = False, keypoints: KeypointSpec | None = None
) -> dict[str, Any]:
    """Build the bricks of a head on one FCOS tower.

    Args:
        backbone: What the backbone provides.
        head: The head.
        masks: Whether it predicts masks.
        keypoints: The key points that it predicts, None for none.
    """
    pyramid, maps, spec = pyramid_of(backbone.features, partial(levels_from, finest=FINEST))
    module = create_part(
        "instance_fcos",
        channels=list(spec.channels),
        strides=list(spec.strides),
        num_classes=head.num_classes,
        num_prototypes=_NUM_PROTOTYPES if masks else 0,
        num_keypoints=0 if keypoints is None else len(keypoints.names),
    )
    outputs = ["logits", "regression", "centerness", "anchors"]
    outputs += (["coefficients", "prototypes"] if masks else []) + ([] if keypoints is None else ["points"])
    entries = (["masks"] if masks else []) + ([] if keypoints is None else ["keypoints"])
    predicted = {name: f"./{name}" for name in outputs}
    targets = {name: f"./target_{name}" for name in ("boxes", "labels", *entries)}
    labelled = {"labelled": f"labelled/{head.name}?"}
    sub_losses = ["./loss_cls", "./loss_box", "./loss_centerness"]
    sub_losses += (["./loss_mask"] if masks else []) + ([] if keypoints is None else ["./loss_point", "./loss_visible"])
    return {
        **pyramid,
        "head": BrickTrainable(module, input_names=[maps, "image"], output_names=list(predicted.values())),
        "decode": BrickNotTrainable(
            create_part("instance_decode"),
            input_names={**predicted, "image": "image"},
            output_names=[f"./{name}" for name in (*_DETECTIONS, *entries)],
            tags=Tag.INFERENCE,
            calculate_gradients=False,
        ),
        "targets": BrickNotTrainable(
            create_part("pad_instances", num_classes=head.num_classes, entries=entries),
            input_names=[f"targets/{head.name}", "image"],
            output_names=list(targets.values()),
            tags={Tag.LOSS, Tag.METRIC_INFERENCE},
            calculate_gradients=False,
        ),
        "loss": BrickLoss(
            create_part(
                "instance_loss",
                strides=list(module.strides),
                sigmas=[] if keypoints is None else list(keypoints.sigmas),
            ),
            input_names={**predicted, **targets, **labelled},
            output_names=["./loss", *sub_losses],
            loss_output_names=["./loss"],
        ),
        **_metrics(masks, keypoints, labelled),
        "visualization": BrickPerImageVisualization(
            create_part(
                "draw_instances",
                labels=head.class_names,
                keypoints=[] if keypoints is None else list(keypoints.names),
                skeleton=[] if keypoints is None else [list(pair) for pair in keypoints.skeleton],
                score_threshold=_SCORE_THRESHOLD,
            ),
            input_names={"image": "image", **{name: f"./{name}" for name in (*_DETECTIONS, *entries)}},
            output_names=["./visualization"],
        ),
    }


def _metrics(masks: bool, keypoints: KeypointSpec | None, labelled: dict[str, str]) -> dict[str, BrickMetrics]:
    """Build the metrics; the names of those of masks have a prefix where there are key points, too."""
    bricks = {}
    if keypoints is not None:
        reads = ("scores", "labels", "keypoints", "target_boxes", "target_labels", "target_keypoints")
        part = create_part("instance_keypoint_metrics", sigmas=list(keypoints.sigmas))
        bricks["metrics"] = BrickMetrics(part, {**_own(reads), **labelled}, tags=Tag.METRIC_INFERENCE)
    if masks:
        reads = (*_DETECTIONS, "masks", "target_labels", "target_masks")
        part = create_part("mask_metrics", prefix="" if keypoints is None else "mask_")
        name = "metrics" if keypoints is None else "mask_metrics"
        bricks[name] = BrickMetrics(part, {**_own(reads), **labelled}, tags=Tag.METRIC_INFERENCE)
    return bricks


def _own(names: tuple[str, ...]) -> dict[str, str]:
    return {name: f"./{name}" for name in names}
