"""Parts by name: what stored models name instead of an import path.

A part is anything that a brick wraps: a module, a metric collection, a function that draws. `create_part(name, **args)`
builds a registered part and records the name and the arguments on it, so that it can be stored as JSON and built again
in another process, without running code from anywhere but the registry.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError, UnknownNameError

Factory = TypeVar("Factory", bound=Callable[..., Any])

# Name: module and factory. A module is imported when one of its parts is first built.
_BUILT_IN = {
    "anomaly_decode": "brickyard.parts.anomaly:AnomalyDecode",
    "anomaly_loss": "brickyard.parts.anomaly:AnomalyLoss",
    "anomaly_map_metrics": "brickyard.parts.anomaly_metrics:anomaly_map_metrics",
    "anomaly_metrics": "brickyard.parts.anomaly_metrics:anomaly_metrics",
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
    "depth_dpt": "brickyard.parts.dpt:DPTDepth",
    "depth_from_log": "brickyard.parts.depth:DepthFromLog",
    "depth_linear": "brickyard.parts.transformer_heads:LinearDepth",
    "depth_logarithm": "brickyard.parts.depth:DepthLogarithm",
    "depth_metrics": "brickyard.parts.depth:depth_metrics",
    "detection_metrics": "brickyard.parts.detection.metrics:detection_metrics",
    "draw_anomaly": "brickyard.parts.drawing.anomaly:DrawAnomaly",
    "draw_boxes": "brickyard.parts.drawing.boxes:DrawBoxes",
    "draw_classification": "brickyard.parts.drawing.classification:DrawClassification",
    "draw_depth": "brickyard.parts.drawing.depth:DrawDepth",
    "draw_embedding": "brickyard.parts.drawing.embedding:DrawEmbedding",
    "draw_instances": "brickyard.parts.drawing.instances:DrawInstances",
    "draw_keypoints": "brickyard.parts.drawing.keypoints:DrawKeypoints",
    "draw_points": "brickyard.parts.drawing.points:DrawPoints",
    "draw_segmentation": "brickyard.parts.drawing.masks:DrawSegmentation",
    "draw_text": "brickyard.parts.drawing.text:DrawText",
    "embedding_metrics": "brickyard.parts.embedding:embedding_metrics",
    "encode_text": "brickyard.parts.text:EncodeText",
    "fcos": "brickyard.parts.detection.fcos:FCOS",
    "fcos_decode": "brickyard.parts.detection.fcos:FCOSDecode",
    "fcos_loss": "brickyard.parts.detection.fcos:FCOSLoss",
    "feature_noise": "brickyard.parts.anomaly:FeatureNoise",
    "fomo": "brickyard.parts.detection.fomo:FOMO",
    "fomo_loss": "brickyard.parts.detection.fomo:FOMOLoss",
    "instance_decode": "brickyard.parts.instances.decode:InstanceDecode",
    "instance_fcos": "brickyard.parts.instances.fcos:InstanceFCOS",
    "instance_keypoint_metrics": "brickyard.parts.instances.metrics:instance_keypoint_metrics",
    "instance_loss": "brickyard.parts.instances.losses:InstanceLoss",
    "keypoint_decode": "brickyard.parts.keypoints:KeypointDecode",
    "keypoint_loss": "brickyard.parts.keypoints:KeypointLoss",
    "keypoint_metrics": "brickyard.parts.keypoints:keypoint_metrics",
    "linear": "torch.nn:Linear",
    "mask_metrics": "brickyard.parts.instances.metrics:mask_metrics",
    "multilabel_metrics": "brickyard.parts.classification:multilabel_metrics",
    "multilabel_prediction": "brickyard.parts.classification:MultilabelPrediction",
    "normalize": "brickyard.parts.preprocess:Preprocessor",
    "pad_boxes": "brickyard.parts.detection.targets:PadBoxes",
    "pad_instances": "brickyard.parts.instances.targets:PadInstances",
    "point_decode": "brickyard.parts.detection.fomo:PointDecode",
    "point_metrics": "brickyard.parts.detection.fomo:point_metrics",
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
    "segmentation_linear": "brickyard.parts.transformer_heads:LinearSegmentation",
    "segmentation_loss": "brickyard.parts.segmentation:SegmentationLoss",
    "segmentation_lraspp": "brickyard.parts.segmentation_heads:LRASPP",
    "segmentation_metrics": "brickyard.parts.segmentation:segmentation_metrics",
    "segmentation_segformer": "brickyard.parts.segmentation_heads:SegFormerMLP",
    "segmentation_tower": "brickyard.parts.segmentation_heads:TowerSegmentation",
    "segmentation_unet": "brickyard.parts.segmentation_heads:UNet",
    "simplenet": "brickyard.parts.anomaly:SimpleNet",
    "smp_decoder": "brickyard.parts.smp_decoder:SmpDecoder",
    "spatial_max_classifier": "brickyard.parts.classification:SpatialMaxClassifier",
    "ssdlite": "brickyard.parts.detection.ssdlite:SSDLite",
    "ssdlite_decode": "brickyard.parts.detection.ssdlite:SSDLiteDecode",
    "ssdlite_loss": "brickyard.parts.detection.ssdlite:SSDLiteLoss",
    "supervised_contrastive": "brickyard.parts.embedding:SupervisedContrastive",
    "text_decode": "brickyard.parts.text:TextDecode",
    "text_loss": "brickyard.parts.text:TextLoss",
    "text_metrics": "brickyard.parts.text:text_metrics",
    "text_recognizer": "brickyard.parts.text:TextRecognizer",
    "timm": "brickyard.parts.backbones:timm_backbone",
    "token_classifier": "brickyard.parts.transformer_heads:TokenClassifier",
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
_ABSENT = object()


@final
@dataclass(frozen=True)
class Part:
    """How a part was built.

    Attributes:
        type: The registered name.
        args: The keyword arguments of the factory; JSON values. An argument that the part has as an attribute has its
            present value.
    """

    type: str
    args: dict[str, Any]


@final
@dataclass(frozen=True)
class _Record:
    """What `create_part` records on a part.

    Attributes:
        type: The registered name.
        args: The arguments that it was built with.
        known: The value that each argument had as an attribute of the part once it was built, and its argument.
        inner: The part that an adapter wraps.
    """

    type: str
    args: dict[str, Any]
    known: dict[str, tuple[Any, Any]]
    inner: Any = None

    def present(self, part: Any) -> Part:
        args = dict(self.args)
        for name, (built, argument) in self.known.items():
            now = _plain(part, name)
            if _is_same(built, now):
                continue
            new = now.flatten().tolist() if isinstance(now, Tensor) else now
            was = built.flatten().tolist() if isinstance(built, Tensor) else built
            if now is _ABSENT or not _is_close(was, argument):
                expected = f"'{name}' as it was built, since the part keeps it in another form than its argument"
                hint = f"Build it with create_part('{self.type}', {name}=...)."
                raise BrickInputError(f"part '{self.type}'", expected, "another value", hint)
            args[name] = new
        inner = None if self.inner is None else part_of(self.inner)
        return Part(self.type, args if inner is None else {"wraps": {"type": inner.type, "args": inner.args}, **args})


def register_part(name: str) -> Callable[[Factory], Factory]:
    """Register a class or function that builds a part; its arguments must be JSON values.

    A stored part is built on the meta device first, to check its memory. An argument that the part keeps as an
    attribute of the same name is stored with the present value of the attribute.

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
    factory = _registered.get(name) or _load(_BUILT_IN[name])
    part = factory(**args)
    arguments = {**_defaults(factory), **args}
    known = {key: (value, arguments[key]) for key in arguments if (value := _plain(part, key)) is not _ABSENT}
    setattr(part, _RECORD, _Record(name, args, known))
    return part


def wrapped_part(name: str, inner: Any, /, **args: Any) -> Any:
    """Wrap an object in an adapter, and record how, if the object is a part itself."""
    part = _load(_WRAPPERS[name])(inner, **args)
    if part_of(inner) is not None:
        setattr(part, _RECORD, _Record(name, args, {}, inner))
    return part


def part_of(built: object) -> Part | None:
    """Return how an object like this one is built, None if it was not built by `create_part`.

    Raises:
        BrickInputError: An attribute was set to a value that no argument gives.
    """
    record: _Record | None = getattr(built, _RECORD, None)
    return None if record is None else record.present(built)


@functools.cache
def _defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the optional arguments of a factory."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some builtins have no signature
        return {}
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def _plain(part: Any, name: str) -> Any:
    """Return a copy of an attribute that is a JSON value, or a tensor that is no weight; `_ABSENT` for any other."""
    value = getattr(part, name, _ABSENT)
    if isinstance(value, Tensor):
        is_weight = isinstance(value, nn.Parameter) or (isinstance(part, nn.Module) and name in part.state_dict())
        return _ABSENT if is_weight else value.detach().clone()
    return _as_json(value)


def _as_json(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        values = [_as_json(each) for each in value]
        return _ABSENT if any(each is _ABSENT for each in values) else values
    if isinstance(value, dict):
        values = [_as_json(each) for each in value.values()]
        return _ABSENT if any(each is _ABSENT for each in values) else dict(zip(value, values, strict=True))
    return value if value is None or isinstance(value, (bool, int, float, str)) else _ABSENT


def _is_same(built: Any, now: Any) -> bool:
    """Return whether a value is as it was built, up to a conversion of the module's dtype or device."""
    if isinstance(built, Tensor) and isinstance(now, Tensor):
        return built.is_meta or now.is_meta or torch.equal(built.to(now), now)
    return not isinstance(built, Tensor) and not isinstance(now, Tensor) and bool(built == now)


def _is_close(value: Any, argument: Any) -> bool:
    """Return whether an attribute is an argument as it was given, up to the precision of float32."""
    argument = _as_json(argument)
    if isinstance(value, list) and isinstance(argument, list):
        return len(value) == len(argument) and all(map(_is_close, value, argument))
    if isinstance(value, float) and isinstance(argument, (int, float)):
        return math.isclose(value, argument, rel_tol=1e-6)
    return bool(value == argument)


def _load(entry: str) -> Callable[..., Any]:
    module, _, factory = entry.partition(":")
    built_in: Callable[..., Any] = getattr(import_module(module), factory)
    return built_in
