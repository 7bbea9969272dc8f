"""The segmentation and detection models of torchvision with a resnet as backbone.

Class names, metrics, sizes and addresses are those of torchvision's `Weights`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.models import WeightsEnum
from torchvision.models.detection import (
    FCOS_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)
from torchvision.models.segmentation import (
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
    FCN_ResNet50_Weights,
    FCN_ResNet101_Weights,
)

from brickyard.importers.entry import ImportEntry, Prefix

_LICENCE = "bsd-3-clause"
_STRIDES = [8, 16, 32, 64, 128]  # of the maps of the detection heads
_NO_CLASS = ("__background__", "N/A")  # outputs that no label of COCO has
_EPS = 1e-5  # of batch norm
# In weights from before torchvision 0.13, the convolutions of pyramids and of RetinaNet's head are under other names.
_OLD_PYRAMID = re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
_OLD_HEAD = re.compile(r"^(head\.\w+\.conv)\.(\d+)\.(weight|bias)$")

_SEGMENTATION = (
    Prefix("backbone.", "backbone"),
    Prefix("classifier.", "seg/head"),
    Prefix("aux_classifier.", None),  # only for training
)
_DETECTION = (
    Prefix("backbone.body.", "backbone"),
    Prefix("backbone.fpn.", "det/head", "neck.fpn."),
    Prefix("head.", "det/head", "head."),
)


def _segmentation(model: str, name: str, weights: WeightsEnum) -> ImportEntry:
    return _entry(
        model,
        name,
        weights,
        {"seg": tuple(weights.meta["categories"])},
        image_size=(520, 520),
        resize_mode="squash",
        prefixes=_SEGMENTATION,
        options={"output_stride": 8},
    )


def _detection(
    model: str,
    name: str,
    weights: WeightsEnum,
    *,
    anchors: int,
    head: Mapping[str, Any],
    decode: Mapping[str, Any],
    is_old: bool = False,
) -> ImportEntry:
    """Describe a detector.

    Args:
        model: torchvision's name.
        name: Ours.
        weights: torchvision's.
        anchors: The number of anchors per cell.
        head: Further arguments of the head's part.
        decode: Further arguments of the decoder.
        is_old: Whether these are the first weights of RetinaNet, which have other names in the head, and an eps of 0 in
            the batch norm of the backbone.
    """
    categories = weights.meta["categories"]
    classes = [index for index, category in enumerate(categories) if category not in _NO_CLASS]
    return _entry(
        model,
        name,
        weights,
        {"det": tuple(categories[index] for index in classes)},
        image_size=(1024, 1024),  # about the scale of torchvision's, whose shorter side is 800
        resize_mode="letterbox",
        prefixes=_DETECTION,
        parts={
            "det/head": {"width": 256, "torchvision_anchors": True, **head},
            "det/decode": {"strides": _STRIDES, **decode},
        },
        convert=partial(_convert, classes=classes, outputs=len(categories), anchors=anchors, is_old=is_old),
    )


def _entry(
    model: str, name: str, weights: WeightsEnum, labels: Mapping[str, tuple[str, ...]], **further: Any
) -> ImportEntry:
    stated = {
        f"{key} {data}": value for data, values in weights.meta["_metrics"].items() for key, value in values.items()
    }
    return ImportEntry(
        source=f"torchvision:{model}",
        name=name,
        labels=labels,
        metrics=dict.fromkeys(labels, stated),
        licence=_LICENCE,
        url=weights.url,
        size=int(weights.meta["_file_size"] * 2**20),
        **further,
    )


def _convert(
    state: Mapping[str, Tensor], classes: list[int], outputs: int, anchors: int, is_old: bool
) -> dict[str, Tensor]:
    """Convert the state of a detector: names of before, one output per class of COCO, and batch norm.

    Args:
        state: The state of torchvision's model.
        classes: The outputs to keep.
        outputs: The number of outputs, with those that no class has.
        anchors: The number of anchors per cell.
        is_old: See `_detection`.
    """
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = _OLD_PYRAMID.sub(r"\1.0.\2", key)
        if is_old and (old := _OLD_HEAD.match(name)):  # convolutions and activations in turn
            name = f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}"
        if name.startswith("head.classification_head.cls_logits.") and tensor.shape[:1] == (anchors * outputs,):
            tensor = tensor.view(anchors, outputs, *tensor.shape[1:])[:, classes].flatten(0, 1)  # noqa: PLW2901
        converted[name] = tensor
    for key in [key for key in converted if key.startswith("backbone.body.") and key.endswith(".running_var")]:
        norm = key.removesuffix(".running_var")
        converted.setdefault(f"{norm}.num_batches_tracked", torch.tensor(0))  # frozen batch norm does not count
        weight = converted.get(f"{norm}.weight")
        if is_old and weight is not None and weight.shape == converted[key].shape:
            variance = converted[key].double()
            scale = ((variance + _EPS) / variance).sqrt()
            converted[f"{norm}.weight"] = (weight.double() * scale).to(weight.dtype)
    return converted


ENTRIES = (
    _segmentation("fcn_resnet50", "resnet50_seg-fcn.tv_coco_voc", FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1),
    _segmentation("fcn_resnet101", "resnet101_seg-fcn.tv_coco_voc", FCN_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1),
    _segmentation(
        "deeplabv3_resnet50", "resnet50_seg-deeplabv3.tv_coco_voc", DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1
    ),
    _segmentation(
        "deeplabv3_resnet101",
        "resnet101_seg-deeplabv3.tv_coco_voc",
        DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1,
    ),
    _detection(
        "fcos_resnet50_fpn",
        "resnet50_det.tv_coco",
        FCOS_ResNet50_FPN_Weights.COCO_V1,
        anchors=1,
        head={},
        decode={},
    ),
    _detection(
        "retinanet_resnet50_fpn",
        "resnet50_det-retinanet.tv_coco",
        RetinaNet_ResNet50_FPN_Weights.COCO_V1,
        anchors=9,
        head={"norm": False},
        decode={"count": 300},
        is_old=True,
    ),
    _detection(
        "retinanet_resnet50_fpn_v2",
        "resnet50_det-retinanet.tv_coco_v2",
        RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1,
        anchors=9,
        head={"extra_from_backbone": True},
        decode={"count": 300},
    ),
)
