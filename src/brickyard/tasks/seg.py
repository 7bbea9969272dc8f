"""`seg`: semantic segmentation, one of K classes per pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from brickyard.core.metrics import BrickMetrics
from brickyard.core.modules import BrickLoss, BrickNotTrainable, BrickTrainable
from brickyard.core.specs import NORMED_FEATURES, BackboneSpec
from brickyard.core.visualization import BrickPerImageVisualization
from brickyard.data.geometry import ResizeGeometry, masks_to_original
from brickyard.data.label_kinds import LabelKind
from brickyard.parts.registry import create_part
from brickyard.parts.segmentation_heads import finest_level
from brickyard.tasks.blocks import last_blocks
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.pyramid import pyramid_of
from brickyard.tasks.selection import Selection
from brickyard.tasks.smp import ARCHITECTURES, smp_maps
from brickyard.tasks.task import HeadSpec, Task

# The part of each variant's head.
_HEAD_PARTS = {
    "fpn": "segmentation_fpn",
    "fcn": "segmentation_fcn",
    "deeplabv3": "segmentation_deeplabv3",
    "deeplabv3plus": "segmentation_deeplabv3plus",
    "lraspp": "segmentation_lraspp",
    "segformer": "segmentation_segformer",
    "tower": "segmentation_tower",
    "unet": "segmentation_unet",
    "linear": "segmentation_linear",
    "linear4": "segmentation_linear",
}
_SINGLE_MAP = ("fcn", "deeplabv3")  # the heads that read one feature map instead of a pyramid
_BLOCKS = {"linear": 1, "linear4": 4}  # the number of transformer blocks that DINOv2's heads read
# The heads that are decoders of segmentation_models.pytorch (smp), and smp's names of these.
_SMP = {f"smp{architecture}": architecture for architecture in ARCHITECTURES}


class Segmentation(Task):
    """Semantic segmentation.

    Reads `features` and `image`, `targets/seg` (B, H, W) int64 with 255 for pixels of unknown class, and optionally
    `labelled/seg` (B,) bool, the rows that have a label. Writes `seg/coarse` (B, K, h, w), `seg/logits` (B, K, H, W) at
    image size, `seg/class_prediction` (B, H, W) int64, `seg/loss` (cross-entropy + 1.0 * Dice) and a list of images,
    `seg/visualization`. Backbones of one stride get a `seg/pyramid`.

    Variants:
        fpn: A light feature pyramid, summed at stride 4.
        fcn: torchvision's FCN head on the deepest map of stride 16 or less, as in DeepLab. With many of timm's
            backbones that map is finer and deeper with the option `output_stride=8`.
        deeplabv3: torchvision's DeepLabV3 head on the same map.
        deeplabv3plus: Atrous pooling of the last map, refined at stride 4.
        lraspp: torchvision's LR-ASPP head, the smallest.
        segformer: SegFormer's head of linear layers.
        tower: Residual blocks on a pyramid's map of stride 8, refined at stride 4: for small objects.
        unet: U-Net's decoder, at the stride of the finest map.
        linear: DINOv2's linear head, batch norm and a 1x1 convolution on the normed map of the last transformer block.
        linear4: The same on the maps of the last four blocks, which DINOv2 calls multi-scale.
        smpunet, smpunetplusplus, smpmanet, smplinknet, smpfpn, smppspnet, smpdeeplabv3, smpdeeplabv3plus, smppan,
            smpupernet, smpsegformer, smpdpt: The decoders of segmentation_models.pytorch, which the extra `importers`
            installs. Image sizes are multiples of the largest stride; the DeepLabs need `output_stride=16` or 8.
    """

    name: ClassVar[str] = "seg"
    hub_task: ClassVar[str] = "image-segmentation"
    variants: ClassVar[tuple[str, ...]] = (*_HEAD_PARTS, *_SMP)
    label_kinds: ClassVar[Mapping[str, LabelKind]] = {"seg": LabelKind.MASK}
    main_output: ClassVar[str] = "logits"
    is_dense: ClassVar[bool] = True

    @property
    def required_labels(self) -> set[str | Metadata]:
        return {"seg"}

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        labelled = [f"targets/{head.name}", f"labelled/{head.name}?"]
        labels = head.class_names
        return {
            **_head(backbone, head),
            "resize": BrickNotTrainable(
                create_part("resize_logits"),
                input_names=["./coarse", "image"],
                output_names=["./logits"],
            ),
            "prediction": BrickNotTrainable(
                create_part("class_map"),
                input_names=["./logits"],
                output_names=["./class_prediction"],
            ),
            "loss": BrickLoss(
                create_part("segmentation_loss", dice=1.0),
                input_names=["./logits", *labelled],
                output_names=["./loss"],
            ),
            "metrics": BrickMetrics(
                create_part("segmentation_metrics", labels=labels),
                input_names=["./class_prediction", *labelled],
            ),
            "visualization": BrickPerImageVisualization(
                create_part("draw_segmentation", labels=labels),
                input_names={"image": "image", "class_prediction": "./class_prediction"},
                output_names=["./visualization"],
            ),
        }

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 21  # Pascal VOC's

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return the selected classes that are present, largest first: {"label", "class", "share" in (0, 1]}.

        A share is a part of all pixels of the image.
        """
        classes = values["class_prediction"]
        pixels = np.bincount(classes[classes >= 0], minlength=len(labels))
        return [
            {"label": labels[index], "class": int(index), "share": float(pixels[index] / classes.size)}
            for index in np.argsort(-pixels, kind="stable")[: np.count_nonzero(pixels)]
        ]

    def select(self, values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        classes = values["class_prediction"]
        pixels = np.bincount(classes.ravel())
        kept = replace(selection, threshold=0.0).mask(pixels, np.arange(len(pixels)))
        return {**values, "class_prediction": np.where(kept[classes], classes, -1)}

    def mask(self, values: Mapping[str, Any]) -> npt.NDArray[Any]:
        classes: npt.NDArray[Any] = values["class_prediction"]
        return classes

    def on_image(self, values: Mapping[str, Any], geometry: ResizeGeometry) -> dict[str, Any]:
        """Map the `class_prediction` (H, W) to the original image."""
        classes = torch.from_numpy(values["class_prediction"])
        return {**values, "class_prediction": masks_to_original(classes, geometry).numpy()}

    def labels_as_outputs(self, labels: Any, num_classes: int) -> dict[str, Any]:
        """Return the mask as `class_prediction` (B, H, W)."""
        return {"class_prediction": labels}


def _head(backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
    """Build the bricks up to the coarse logits."""
    if head.variant in _SMP:
        architecture = _SMP[head.variant]
        maps = smp_maps(architecture, backbone)
        part = create_part("smp_decoder", architecture=architecture, **maps, num_classes=head.num_classes)
        return {"head": BrickTrainable(part, input_names=["normalized", "features"], output_names=["./coarse"])}
    name = _HEAD_PARTS[head.variant]
    if head.variant in _BLOCKS:
        blocks = _BLOCKS[head.variant]
        read, channels = f"{NORMED_FEATURES}{last_blocks(backbone, head, blocks)}", backbone.features.channels[-1]
        part = create_part(name, in_channels=channels, num_classes=head.num_classes, blocks=blocks)
        return {"head": BrickTrainable(part, input_names=[read], output_names=["./coarse"])}
    if head.variant in _SINGLE_MAP:
        level = _deepest_fine(backbone.features.strides)
        part = create_part(name, in_channels=backbone.features.channels[level], num_classes=head.num_classes)
        return {"head": BrickTrainable(part, input_names=[f"features[{level}]"], output_names=["./coarse"])}
    bricks, read, spec = pyramid_of(backbone.features, partial(_levels, head.variant))
    part = create_part(name, channels=list(spec.channels), strides=list(spec.strides), num_classes=head.num_classes)
    return {**bricks, "head": BrickTrainable(part, input_names=[read], output_names=["./coarse"])}


def _levels(variant: str, strides: Sequence[int]) -> list[int]:
    """Return the levels of a pyramid that a head reads, by the strides of the pyramid."""
    last = len(strides) - 1
    if variant == "unet":
        return [*range(last + 1)]
    first = finest_level(strides, at_least=8 if variant == "lraspp" else 4)
    return [first, last] if variant in ("lraspp", "deeplabv3plus") else [*range(first, last + 1)]


def _deepest_fine(strides: Sequence[int]) -> int:
    """Return the last level of stride 16 or less, the first level if there is none."""
    return max((level for level, stride in enumerate(strides) if stride <= 16), default=0)
