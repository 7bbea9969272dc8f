"""`depth`: how far away each pixel is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.errors import BrickInputError
from brickyard.parts.backbones import BackboneSpec
from brickyard.parts.drawing.masks import resize_nearest
from brickyard.parts.registry import create_part
from brickyard.parts.segmentation_heads import finest_level
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.task import HeadSpec, Task


class Depth(Task):
    """Depth of one picture, by its logarithm; its one "class" is the depth.

    Reads `features` and `image`, `targets/depth` (B, H, W) float in any unit, such as metres, and 0, below it or not
    finite where depth is unknown, and optionally `labelled/depth` (B,) bool: the rows that have a label. Writes
    `depth/coarse` (B, 1, h, w), `depth/log_depth` (B, 1, H, W) at image size, `depth/depth` (B, 1, H, W) above 0, in
    the labels' unit, `depth/loss` and a list of pictures, `depth/visualization`.

    Variants:
        fpn: A light feature pyramid, summed at stride 4.
        unet: U-Net's decoder, at the stride of the finest map.
    """

    name: ClassVar[str] = "depth"
    hub_task: ClassVar[str] = "depth-estimation"
    variants: ClassVar[tuple[str, ...]] = ("fpn", "unet")
    is_dense: ClassVar[bool] = True

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"depth"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        if head.num_classes != 1:
            raise BrickInputError(f"num_classes of '{head.name}'", "1, the depth", f"{head.num_classes}")
        labelled = [f"targets/{head.name}", f"labelled/{head.name}?"]
        bricks = {
            **_head(backbone, head),
            "resize": BrickNotTrainable(
                create_part("resize_logits"),
                input_names=["./coarse", "image"],
                output_names=["./log_depth"],
            ),
            "prediction": BrickNotTrainable(
                create_part("depth_from_log"),
                input_names=["./log_depth"],
                output_names=["./depth"],
            ),
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
        bricks["head"].metadata = {"labels": list(head.labels or [self.name])}
        return bricks

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """What the depths are: {"label", "nearest", "median", "farthest"}, in the labels' unit."""
        nearest, median, farthest = (float(value) for value in np.percentile(values["depth"], (0, 50, 100)))
        return [{"label": labels[0], "nearest": nearest, "median": median, "farthest": farthest}]

    def on_image(self, values: Mapping[str, Any], seen: tuple[int, int], shown: tuple[int, int]) -> dict[str, Any]:
        """The same values with the `depth` of a picture of another size, (H, W, 1)."""
        return {**values, "depth": resize_nearest(values["depth"][0], *shown)[..., None]}


def _head(backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
    """The bricks up to the coarse logarithms."""
    bricks, read, spec = pyramid_of(backbone.features, partial(_levels, head.variant))
    sizes = {"channels": list(spec.channels), "strides": list(spec.strides)}
    part = create_part(f"segmentation_{head.variant}", **sizes, num_classes=1)
    return {**bricks, "head": BrickTrainable(part, input_names=[read], output_names=["./coarse"])}


def _levels(variant: str, strides: Sequence[int]) -> list[int]:
    """The maps that a head reads, of a pyramid with these strides."""
    return [*range(0 if variant == "unet" else finest_level(strides, at_least=4), len(strides))]
