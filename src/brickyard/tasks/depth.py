"""`depth`: monocular depth estimation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import CLASS_TOKENS, BackboneSpec, HeadInfo
from brickyard.core.tags import Tag
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.geometry import ResizeGeometry, masks_to_original
from brickyard.data.label_kinds import LabelKind
from brickyard.errors import BrickInputError
from brickyard.parts.registry import create_part
from brickyard.parts.segmentation_heads import finest_level
from brickyard.tasks.blocks import last_blocks, spread_blocks
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.task import HeadSpec, Task

# The part of each variant's head: those that predict the logarithm of depth, and those of DINOv2 that predict depth.
_LOG_PARTS = {"fpn": "segmentation_fpn", "unet": "segmentation_unet"}
_DEPTH_PARTS = {"linear": "depth_linear", "linear4": "depth_linear", "dpt": "depth_dpt"}


class Depth(Task):
    """Depth estimation from one image; its only "class" is the depth.

    Reads `features` and `image`, `targets/depth` (B, H, W) float in any unit, such as metres, not above 0
    or not finite where depth is unknown, and optionally `labelled/depth` (B,) bool, the rows that have a label. Writes
    `depth/coarse` (B, 1, h, w), `depth/log_depth` (B, 1, H, W) at image size, `depth/depth` (B, 1, H, W) above 0, in
    the labels' unit, `depth/loss` and a list of images, `depth/visualization`.

    Variants:
        fpn: A light feature pyramid, summed at stride 4, for the logarithm of depth.
        unet: U-Net's decoder, at the stride of the finest map, for the logarithm of depth.
        linear: DINOv2's linear head on the map and the class token of the last transformer block: 256 bins from
            `min_depth` to `max_depth`, 0.001 and 10, which are attributes of the head's module and may be set.
        linear4: The same on four blocks.
        dpt: DPT on four transformer blocks, with the same range.
    """

    name: ClassVar[str] = "depth"
    hub_task: ClassVar[str] = "depth-estimation"
    has_classes: ClassVar[bool] = False
    variants: ClassVar[tuple[str, ...]] = (*_LOG_PARTS, *_DEPTH_PARTS)
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"depth": LabelKind.DENSE_MAP}
    is_dense: ClassVar[bool] = True

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"depth"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        if head.num_classes != 1:
            raise BrickInputError(f"num_classes of '{head.name}'", "1, the depth", f"{head.num_classes}")
        labelled = [f"targets/{head.name}", f"labelled/{head.name}?"]
        bricks = {
            **(_depth_bricks if head.variant in _DEPTH_PARTS else _log_bricks)(backbone, head),
            "loss": BrickLoss(
                create_part("scale_invariant_loss"),
                input_names=["./log_depth", *labelled],
                output_names=["./loss"],
            ),
            "metrics": BrickMetrics(create_part("depth_metrics"), input_names=["./depth", *labelled]),
            "visualization": BrickPerImageVisualization(
                create_part("draw_depth"),
                input_names={"image": "image", "depth": "./depth"},
                output_names=["./visualization"],
            ),
        }
        bricks["head"].head = HeadInfo(self.name, head.variant, tuple(head.labels or [self.name]))
        return bricks

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return a summary of the depths: {"label", "nearest", "median", "farthest"}, in the labels' unit."""
        nearest, median, farthest = (float(value) for value in np.percentile(values["depth"], (0, 50, 100)))
        return [{"label": labels[0], "nearest": nearest, "median": median, "farthest": farthest}]

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map the `depth`, (1, H, W), to the original image, (H, W, 1)."""
        depth = masks_to_original(torch.from_numpy(values["depth"]), geometry)
        return {**values, "depth": depth.numpy().transpose(1, 2, 0)}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return the map as `depth` (B, 1, H, W)."""
        return {"depth": labels[:, None]}


def _log_bricks(backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
    """Build the bricks up to the depth for a head that predicts its logarithm."""
    bricks, read, spec = pyramid_of(backbone.features, partial(_levels, head.variant))
    sizes = {"channels": list(spec.channels), "strides": list(spec.strides)}
    part = create_part(_LOG_PARTS[head.variant], **sizes, num_classes=1)
    return {
        **bricks,
        "head": BrickTrainable(part, input_names=[read], output_names=["./coarse"]),
        "resize": BrickNotTrainable(
            create_part("resize_logits"), input_names=["./coarse", "image"], output_names=["./log_depth"]
        ),
        "prediction": BrickNotTrainable(
            create_part("depth_from_log"), input_names=["./log_depth"], output_names=["./depth"]
        ),
    }


def _depth_bricks(backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
    """Build the bricks up to the depth for a head that predicts it; the loss alone needs its logarithm."""
    one = head.variant == "linear"
    index = last_blocks(backbone, head, 1) if one else spread_blocks(backbone, head)
    count = {} if head.variant == "dpt" else {"blocks": 1 if one else 4}
    part = create_part(_DEPTH_PARTS[head.variant], in_channels=backbone.features.channels[-1], **count)
    reads = [f"features{index}", f"{CLASS_TOKENS}{index}"]
    return {
        "head": BrickTrainable(part, input_names=reads, output_names=["./coarse"]),
        "prediction": BrickNotTrainable(
            create_part("resize_logits"), input_names=["./coarse", "image"], output_names=["./depth"]
        ),
        "logarithm": BrickNotTrainable(
            create_part("depth_logarithm"), input_names=["./depth"], output_names=["./log_depth"], tags=Tag.LOSS
        ),
    }


def _levels(variant: str, strides: Sequence[int]) -> list[int]:
    """Return the levels of a pyramid that a head reads, by the strides of the pyramid."""
    return [*range(0 if variant == "unet" else finest_level(strides, at_least=4), len(strides))]
