"""Parts by name: what a stored model says instead of an import path.

A part is anything that a brick wraps: a module, a metric collection, a function object that draws. A registered part is
made by `create_part(name, **args)`, which records the name and the arguments on it, so that it can be stored as JSON
and made again in another process, without running code from anywhere but the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, final

from torch import nn

from brickyard.errors import UnknownNameError
from brickyard.parts.adapters import ImagePair, SubLosses
from brickyard.parts.backbones import timm_backbone
from brickyard.parts.classification import (
    AttentionClassifier,
    ClassPrediction,
    MultilabelPrediction,
    SpatialMaxClassifier,
    classification_metrics,
    multilabel_metrics,
)
from brickyard.parts.depth import DepthFromLog, ScaleInvariantLoss, depth_metrics
from brickyard.parts.detection.centernet import CenterNet, CenterNetDecode, CenterNetLoss
from brickyard.parts.detection.fcos import FCOS, FCOSDecode, FCOSLoss
from brickyard.parts.detection.metrics import detection_metrics
from brickyard.parts.detection.retinanet import RetinaNet, RetinaNetDecode, RetinaNetLoss
from brickyard.parts.detection.ssdlite import SSDLite, SSDLiteDecode, SSDLiteLoss
from brickyard.parts.detection.targets import PadBoxes
from brickyard.parts.drawing.boxes import DrawBoxes
from brickyard.parts.drawing.classification import DrawClassification
from brickyard.parts.drawing.depth import DrawDepth
from brickyard.parts.drawing.embedding import DrawEmbedding
from brickyard.parts.drawing.keypoints import DrawKeypoints
from brickyard.parts.drawing.masks import DrawSegmentation
from brickyard.parts.embedding import SupervisedContrastive, UnitVector, embedding_metrics
from brickyard.parts.keypoints import DeconvolutionHeatmaps, KeypointDecode, KeypointLoss, keypoint_metrics
from brickyard.parts.label_types import CheckLabels
from brickyard.parts.losses import BinaryCrossEntropy, CrossEntropy, UncertaintyWeighting, WeightedSum
from brickyard.parts.necks import Pyramid
from brickyard.parts.preprocess import Preprocessor
from brickyard.parts.segmentation import ClassMap, ResizeLogits, SegmentationLoss, segmentation_metrics
from brickyard.parts.segmentation_heads import (
    LRASPP,
    DeepLabV3Plus,
    FPNSegmentation,
    SegFormerMLP,
    TowerSegmentation,
    UNet,
    segmentation_deeplabv3,
    segmentation_fcn,
)

Factory = TypeVar("Factory", bound=Callable[..., Any])

_FACTORIES: dict[str, Callable[..., Any]] = {
    "attention_classifier": AttentionClassifier,
    "binary_cross_entropy": BinaryCrossEntropy,
    "centernet": CenterNet,
    "centernet_decode": CenterNetDecode,
    "centernet_loss": CenterNetLoss,
    "check_labels": CheckLabels,
    "class_map": ClassMap,
    "class_prediction": ClassPrediction,
    "classification_metrics": classification_metrics,
    "cross_entropy": CrossEntropy,
    "deconvolution_heatmaps": DeconvolutionHeatmaps,
    "depth_from_log": DepthFromLog,
    "depth_metrics": depth_metrics,
    "detection_metrics": detection_metrics,
    "draw_boxes": DrawBoxes,
    "draw_classification": DrawClassification,
    "draw_depth": DrawDepth,
    "draw_embedding": DrawEmbedding,
    "draw_keypoints": DrawKeypoints,
    "draw_segmentation": DrawSegmentation,
    "embedding_metrics": embedding_metrics,
    "fcos": FCOS,
    "fcos_decode": FCOSDecode,
    "fcos_loss": FCOSLoss,
    "keypoint_decode": KeypointDecode,
    "keypoint_loss": KeypointLoss,
    "keypoint_metrics": keypoint_metrics,
    "linear": nn.Linear,
    "multilabel_metrics": multilabel_metrics,
    "multilabel_prediction": MultilabelPrediction,
    "normalize": Preprocessor,
    "pad_boxes": PadBoxes,
    "pyramid": Pyramid,
    "resize_logits": ResizeLogits,
    "retinanet": RetinaNet,
    "retinanet_decode": RetinaNetDecode,
    "retinanet_loss": RetinaNetLoss,
    "scale_invariant_loss": ScaleInvariantLoss,
    "segmentation_deeplabv3": segmentation_deeplabv3,
    "segmentation_deeplabv3plus": DeepLabV3Plus,
    "segmentation_fcn": segmentation_fcn,
    "segmentation_fpn": FPNSegmentation,
    "segmentation_loss": SegmentationLoss,
    "segmentation_lraspp": LRASPP,
    "segmentation_metrics": segmentation_metrics,
    "segmentation_segformer": SegFormerMLP,
    "segmentation_tower": TowerSegmentation,
    "segmentation_unet": UNet,
    "spatial_max_classifier": SpatialMaxClassifier,
    "ssdlite": SSDLite,
    "ssdlite_decode": SSDLiteDecode,
    "ssdlite_loss": SSDLiteLoss,
    "supervised_contrastive": SupervisedContrastive,
    "timm": timm_backbone,
    "uncertainty_weighting": UncertaintyWeighting,
    "unit_vector": UnitVector,
    "weighted_sum": WeightedSum,
}
_WRAPPERS: dict[str, Callable[..., Any]] = {"image_pair": ImagePair, "sub_losses": SubLosses}
_RECORD = "_brickyard_part"


@final
@dataclass(frozen=True)
class Part:
    """How a part was made.

    Attributes:
        type: Its registered name.
        args: The factory's keyword arguments; JSON values.
    """

    type: str
    args: dict[str, Any]


def register_part(name: str) -> Callable[[Factory], Factory]:
    """Register a class or function that makes a part; its arguments must be JSON values.

    Raises:
        ValueError: Another factory has this name.
    """

    def register(factory: Factory) -> Factory:
        if _FACTORIES.setdefault(name, factory) is not factory:
            raise ValueError(f"A part named '{name}' is registered already: {_FACTORIES[name]}. Choose another name.")
        return factory

    return register


def create_part(name: str, /, **args: Any) -> Any:
    """Make a registered part and record on it how it was made.

    Raises:
        UnknownNameError: No part has this name.
    """
    if name in _WRAPPERS:
        inner = dict(args.pop("wraps"))
        return wrapped_part(name, create_part(inner["type"], **inner["args"]), **args)
    if name not in _FACTORIES:
        raise UnknownNameError("part", name, _FACTORIES, "A part of your own is registered with `register_part`.")
    made = _FACTORIES[name](**args)
    setattr(made, _RECORD, Part(name, args))
    return made


def wrapped_part(name: str, inner: Any, /, **args: Any) -> Any:
    """Wrap something in an adapter, and record how, where it is a part itself."""
    made = _WRAPPERS[name](inner, **args)
    if (record := part_of(inner)) is not None:
        setattr(made, _RECORD, Part(name, {"wraps": {"type": record.type, "args": record.args}, **args}))
    return made


def part_of(made: object) -> Part | None:
    """How `made` was made, None if not by `create_part`."""
    return getattr(made, _RECORD, None)
