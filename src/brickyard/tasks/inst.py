"""`inst`: instance segmentation, a mask for each object of K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from brickyard.core.conversions import torch_to_numpy
from brickyard.core.specs import BackboneSpec
from brickyard.data.geometry import ResizeGeometry
from brickyard.data.label_kinds import LabelKind
from brickyard.parts import run_lengths
from brickyard.parts.instances.mask_images import cover_window, paste_mask
from brickyard.tasks.det import Detection, without_ignored
from brickyard.tasks.instances import instance_bricks
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.task import HeadSpec


class InstanceSegmentation(Detection):
    """Instance segmentation: detection with a mask for each object.

    Reads `features`, `image` (for its size) and `targets/inst`: for each image {"boxes": (M, 4) xyxy pixels, "labels":
    (M,), "masks": (M, H, W) of 0 and 1}, optionally with "ignore" (M,) bool, or all of them padded by `PadInstances`,
    which a training step compiled as one graph needs. Optional: `labelled/inst` (B,) bool. Writes `inst/boxes`
    (B, N, 4) xyxy pixels, `inst/scores` (B, N) and `inst/labels` (B, N) int64 as `det` does, and `inst/masks`
    (B, N, H / 4, W / 4) in [0, 1], which cover the image; the raw outputs of the head; `inst/loss`, the sum of its
    terms; and a list of images, `inst/visualization`.

    Variants: `fcos` combines prototype masks for each point of an FCOS tower, as YOLACT does.
    """

    name: ClassVar[str] = "inst"
    hub_task: ClassVar[str] = "image-segmentation"
    variants: ClassVar[tuple[str, ...]] = ("fcos",)
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"inst": LabelKind.INSTANCE_MASKS}

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"inst"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        return instance_bricks(backbone, head, masks=True)

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the objects of `on_image`, the highest score first, as `det` does with "segmentation".

        It is {"size": [H, W], "counts": text}, COCO's compressed run lengths, at the size of the original image.
        """
        return with_segmentations(super().results(values, labels), values)

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map `boxes` (N, 4) to pixels of the original image and `masks` to (h, w, N) that cover it.

        Its (height, width) is added as `image_size`.
        """
        return masks_on_image(super().on_image(values, geometry), geometry)

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return the outputs of `det`, and `masks`, a list with (H, W, M) for each image."""
        return {**super().labels_as_outputs(labels, num_classes), "masks": label_masks(labels)}


def with_segmentations(results: list[dict[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add its "segmentation" to each result of `det`, from values of `masks_on_image`."""
    rows = np.flatnonzero(values["labels"] >= 0)
    pixels = (paste_mask(values["masks"][..., row], values["boxes"][row], values["image_size"]) for row in rows)
    return [{**result, "segmentation": run_lengths.encode(mask)} for result, mask in zip(results, pixels, strict=True)]


def masks_on_image(values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
    """Crop the `masks` (N, h, w) to the part of the frame that shows the image: (h', w', N); and add `image_size`."""
    masks = cover_window(values["masks"], geometry.size, geometry.content)
    return {**values, "masks": masks.transpose(1, 2, 0), "image_size": geometry.original}


def label_masks(labels: Any) -> list[npt.NDArray[Any]]:
    """Return the masks (H, W, M) of each image of a batch of labels, without objects to ignore."""
    return [torch_to_numpy(image["masks"]).transpose(1, 2, 0) for image in without_ignored(labels)]
