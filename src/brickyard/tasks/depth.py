"""`depth`: how far away each pixel is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, final

import numpy as np

from brickyard.errors import BrickInputError
from brickyard.metrics import BrickMetrics
from brickyard.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.parts.backbones import BackboneSpec
from brickyard.parts.draw_masks import stretched
from brickyard.parts.registry import create_part
from brickyard.parts.segmentation_heads import finest_level
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.task import HeadSpec, Task
from brickyard.visualization import BrickPerImageVisualization


@final
class Depth(Task):
    """Depth of one picture, by its logarithm; its one "class" is the depth.

    Reads `features` and `image`, `targets/depth` (B, H, W) float in any unit, such as metres, and 0, below it or not
    finite where depth is unknown, and optionally `labelled/depth` (B,) bool: the rows that have a label. Writes
    `depth/coarse` (B, 1, h, w), `depth/log_depth` (B, 1, H, W) at image size, `depth/depth` (B, 1, H, W) above 0, in
    the labels' unit, `depth/loss` and a list of pictures, `depth/picture`.

    Variants:
        fpn: A light feature pyramid, summed at stride 4.
        unet: U-Net's decoder, at the stride of the finest map.
    """

    name: ClassVar[str] = "depth"
    variants: ClassVar[tuple[str, ...]] = ("fpn", "unet")
    required_labels: ClassVar[Collection[str | Metadata]] = frozenset({"depth"})
    is_dense: ClassVar[bool] = True

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        if head.num_classes != 1:
            raise BrickInputError(f"num_classes of '{head.name}'", "1, the depth", f"{head.num_classes}")
        pyramid, read, spec = pyramid_of(backbone.features, partial(_levels, head.variant))
        channels, strides = list(spec.channels), list(spec.strides)
        part = create_part(f"segmentation_{head.variant}", channels=channels, strides=strides, num_classes=1)
        bricks = {
            **pyramid,
            "head": BrickTrainable(part, input_names=[read], output_names=["./coarse"]),
            "resize": BrickNotTrainable(create_part("resize_logits"), ["./coarse", "image"], ["./log_depth"]),
            "prediction": BrickNotTrainable(create_part("depth_from_log"), ["./log_depth"], ["./depth"]),
        }
        loss = create_part("scale_invariant_loss", where=f"{head.name}/loss")
        metrics, draw = create_part("depth_metrics"), create_part("draw_depth")
        attached = {
            "loss": BrickLoss(loss, self.wire(loss, head.name, bricks), ["./loss"]),
            "metrics": BrickMetrics(metrics, self.wire(metrics, head.name, bricks)),
            "picture": BrickPerImageVisualization(draw, self.wire(draw, head.name, bricks), ["./picture"]),
        }
        labels = list(head.labels or [self.name])
        bricks["head"].metadata = {"task": self.name, "variant": head.variant, "labels": labels}
        return {**bricks, **attached}

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """What the depths are: {"label", "nearest", "median", "farthest"}, in the labels' unit."""
        nearest, median, farthest = (float(value) for value in np.percentile(values["depth"], (0, 50, 100)))
        return [{"label": labels[0], "nearest": nearest, "median": median, "farthest": farthest}]

    def on_picture(self, values: Mapping[str, Any], seen: tuple[int, int], shown: tuple[int, int]) -> dict[str, Any]:
        """The same values with the `depth` of a picture of another size, (H, W, 1)."""
        return {**values, "depth": stretched(values["depth"][0], *shown)[..., None]}


def _levels(variant: str, strides: Sequence[int]) -> list[int]:
    """The maps that a head reads, of a pyramid with these strides."""
    return [*range(0 if variant == "unet" else finest_level(strides, at_least=4), len(strides))]
