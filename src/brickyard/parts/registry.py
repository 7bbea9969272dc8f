"""Parts by name: what stored models name instead of an import path.

A part is anything that a brick wraps: a module, a metric collection, a function that draws. `create_part(name, **args)`
builds a registered part and records the name and the arguments on it, so that it can be stored as JSON and built again
in another process, without running code from anywhere but the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, final

from brickyard.errors import UnknownNameError

Factory = TypeVar("Factory", bound=Callable[..., Any])

# Name: module and factory. A module is imported when one of its parts is first built.
_BUILT_IN = {
    "attention_classifier": "brickyard.parts.classification:AttentionClassifier",
    "binary_cross_entropy": "brickyard.parts.losses:BinaryCrossEntropy",
    "centernet": "brickyard.parts.detection.centernet:CenterNet",
    "centernet_decode": "brickyard.parts.detection.centernet:CenterNetDecode",
    "centernet_loss": "brickyard.parts.detection.centernet:CenterNetLoss",
    "check_labels": "brickyard.parts.label_types:CheckLabels",
    "class_map": "brickyard.parts.segmentation:ClassMap",
    "class_prediction": "brickyard.parts.classification:ClassPrediction",
    "classification_metrics": "brickyard.parts.classification:classification_metrics",
    "cross_entropy": "brickyard.parts.losses:CrossEntropy",
    "deconvolution_heatmaps": "brickyard.parts.keypoints:DeconvolutionHeatmaps",
    "depth_from_log": "brickyard.parts.depth:DepthFromLog",
    "depth_metrics": "brickyard.parts.depth:depth_metrics",
    "detection_metrics": "brickyard.parts.detection.metrics:detection_metrics",
    "draw_boxes": "brickyard.parts.drawing.boxes:DrawBoxes",
    "draw_classification": "brickyard.parts.drawing.classification:DrawClassification",
    "draw_depth": "brickyard.parts.drawing.depth:DrawDepth",
    "draw_embedding": "brickyard.parts.drawing.embedding:DrawEmbedding",
    "draw_keypoints": "brickyard.parts.drawing.keypoints:DrawKeypoints",
    "draw_segmentation": "brickyard.parts.drawing.masks:DrawSegmentation",
    "embedding_metrics": "brickyard.parts.embedding:embedding_metrics",
    "fcos": "brickyard.parts.detection.fcos:FCOS",
    "fcos_decode": "brickyard.parts.detection.fcos:FCOSDecode",
    "fcos_loss": "brickyard.parts.detection.fcos:FCOSLoss",
    "keypoint_decode": "brickyard.parts.keypoints:KeypointDecode",
    "keypoint_loss": "brickyard.parts.keypoints:KeypointLoss",
    "keypoint_metrics": "brickyard.parts.keypoints:keypoint_metrics",
    "linear": "torch.nn:Linear",
    "multilabel_metrics": "brickyard.parts.classification:multilabel_metrics",
    "multilabel_prediction": "brickyard.parts.classification:MultilabelPrediction",
    "normalize": "brickyard.parts.preprocess:Preprocessor",
    "pad_boxes": "brickyard.parts.detection.targets:PadBoxes",
    "pyramid": "brickyard.parts.necks:Pyramid",
    "resize_logits": "brickyard.parts.segmentation:ResizeLogits",
    "retinanet": "brickyard.parts.detection.retinanet:RetinaNet",
    "retinanet_decode": "brickyard.parts.detection.retinanet:RetinaNetDecode",
    "retinanet_loss": "brickyard.parts.detection.retinanet:RetinaNetLoss",
    "scale_invariant_loss": "brickyard.parts.depth:ScaleInvariantLoss",
    "segmentation_deeplabv3": "brickyard.parts.segmentation_heads:segmentation_deeplabv3",
    "segmentation_deeplabv3plus": "brickyard.parts.segmentation_heads:DeepLabV3Plus",
    "segmentation_fcn": "brickyard.parts.segmentation_heads:segmentation_fcn",
    "segmentation_fpn": "brickyard.parts.segmentation_heads:FPNSegmentation",
    "segmentation_loss": "brickyard.parts.segmentation:SegmentationLoss",
    "segmentation_lraspp": "brickyard.parts.segmentation_heads:LRASPP",
    "segmentation_metrics": "brickyard.parts.segmentation:segmentation_metrics",
    "segmentation_segformer": "brickyard.parts.segmentation_heads:SegFormerMLP",
    "segmentation_tower": "brickyard.parts.segmentation_heads:TowerSegmentation",
    "segmentation_unet": "brickyard.parts.segmentation_heads:UNet",
    "spatial_max_classifier": "brickyard.parts.classification:SpatialMaxClassifier",
    "ssdlite": "brickyard.parts.detection.ssdlite:SSDLite",
    "ssdlite_decode": "brickyard.parts.detection.ssdlite:SSDLiteDecode",
    "ssdlite_loss": "brickyard.parts.detection.ssdlite:SSDLiteLoss",
    "supervised_contrastive": "brickyard.parts.embedding:SupervisedContrastive",
    "timm": "brickyard.parts.backbones:timm_backbone",
    "uncertainty_weighting": "brickyard.parts.losses:UncertaintyWeighting",
    "unit_vector": "brickyard.parts.embedding:UnitVector",
    "weighted_sum": "brickyard.parts.losses:WeightedSum",
}
_WRAPPERS = {
    "image_pair": "brickyard.parts.adapters:ImagePair",
    "sub_losses": "brickyard.parts.adapters:SubLosses",
}
_registered: dict[str, Callable[..., Any]] = {}  # by `register_part`
_RECORD = "_brickyard_part"


@final
@dataclass(frozen=True)
class Part:
    """How a part was built.

    Attributes:
        type: The registered name.
        args: The keyword arguments of the factory; JSON values.
    """

    type: str
    args: dict[str, Any]


def register_part(name: str) -> Callable[[Factory], Factory]:
    """Register a class or function that builds a part; its arguments must be JSON values.

    Args:
        name: The name that stored models have for it.

    Raises:
        ValueError: Another factory has this name.

    Example:
        >>> from torch import nn
        >>> import brickyard
        >>> @brickyard.register_part("my_head")
        ... class MyHead(nn.Linear):
        ...     pass
        >>> brickyard.create_part("my_head", in_features=4, out_features=2)
        MyHead(in_features=4, out_features=2, bias=True)
    """

    def register(factory: Factory) -> Factory:
        if name in _BUILT_IN or name in _WRAPPERS or _registered.setdefault(name, factory) is not factory:
            raise ValueError(f"A part named '{name}' is registered already. Choose another name.")
        return factory

    return register


def create_part(name: str, /, **args: Any) -> Any:
    """Build a registered part and record on it how it was built.

    Args:
        name: The registered name.
        **args: The arguments of the factory; JSON values.

    Raises:
        UnknownNameError: No part has this name.
    """
    if name in _WRAPPERS:
        inner = dict(args.pop("wraps"))
        return wrapped_part(name, create_part(inner["type"], **inner["args"]), **args)
    if name not in _registered and name not in _BUILT_IN:
        hint = "Parts of your own are registered with `register_part`."
        raise UnknownNameError("part", name, {**_BUILT_IN, **_registered}, hint)
    part = (_registered.get(name) or _load(_BUILT_IN[name]))(**args)
    setattr(part, _RECORD, Part(name, args))
    return part


def wrapped_part(name: str, inner: Any, /, **args: Any) -> Any:
    """Wrap an object in an adapter, and record how, if the object is a part itself."""
    part = _load(_WRAPPERS[name])(inner, **args)
    if (record := part_of(inner)) is not None:
        setattr(part, _RECORD, Part(name, {"wraps": {"type": record.type, "args": record.args}, **args}))
    return part


def part_of(built: object) -> Part | None:
    """Return how an object was built, None if not by `create_part`."""
    return getattr(built, _RECORD, None)


def _load(entry: str) -> Callable[..., Any]:
    module, _, factory = entry.partition(":")
    built_in: Callable[..., Any] = getattr(import_module(module), factory)
    return built_in
