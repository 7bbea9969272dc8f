"""brickyard: a zoo of multi-task vision models made of bricks.

    import brickyard

    model = brickyard.create_model("tf_efficientnet_lite0_cls.in1k", pretrained=True)

Every public name loads its module when it is first used, so `import brickyard` itself loads no torch. What is public,
and where it lives, stands in `__init__.pyi` for type checkers and editors; a test keeps the two alike.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "BackboneResnet": "parts.backbones",
    "BackboneSpec": "parts.backbones",
    "BaseMetric": "parts.metric_state",
    "Brick": "core.brick",
    "BrickBackbone": "core.backbone",
    "BrickCollection": "collection",
    "BrickError": "errors",
    "BrickGraphError": "errors",
    "BrickInfo": "storage.fit",
    "BrickInputError": "errors",
    "BrickIntegrityError": "errors",
    "BrickInterface": "core.brick",
    "BrickLoss": "core.modules",
    "BrickMetricSingle": "core.metrics",
    "BrickMetrics": "core.metrics",
    "BrickMismatchError": "errors",
    "BrickModule": "core.modules",
    "BrickNotFoundError": "errors",
    "BrickNotTrainable": "core.modules",
    "BrickPerImageVisualization": "core.visualization",
    "BrickTrainable": "core.modules",
    "TrainingConfig": "training.config",
    "FeatureSpec": "parts.backbones",
    "HeadRecipe": "recipe.names",
    "HeadSpec": "tasks.task",
    "ImageClassifier": "parts.classification",
    "InputSpec": "parts.backbones",
    "LabelKind": "data.label_kinds",
    "LightningBrickCollection": "training.lightning",
    "TrainerConfig": "training.config",
    "Metadata": "tasks.metadata",
    "MetricState": "parts.metric_state",
    "MissingExtraError": "errors",
    "MissingInputError": "errors",
    "ModelInfo": "catalog",
    "PadBoxes": "parts.detection.targets",
    "Prediction": "inference.predictor",
    "Predictor": "inference.predictor",
    "Preprocessor": "parts.preprocess",
    "PushConflictError": "errors",
    "Recipe": "recipe.names",
    "Stage": "core.tags",
    "Tag": "core.tags",
    "Task": "tasks.task",
    "UNPACK_NO_CONVERSION": "core.visualization",
    "UNPACK_TENSORS_TO_NDARRAYS": "core.visualization",
    "UnknownNameError": "errors",
    "UnsafeBrickError": "errors",
    "attach_loss": "tasks.attach",
    "attach_metric": "tasks.attach",
    "attach_visualizer": "tasks.attach",
    "batched_tensor_to_channel_last": "core.conversions",
    "create_mermaid_dag_graph": "core.mermaid",
    "create_model": "create",
    "create_model_for": "training.matching",
    "create_part": "parts.registry",
    "evaluate": "training.evaluation",
    "export_aoti": "export.pt2",
    "export_bricks_as_onnx": "export.onnx_file",
    "export_onnx": "export.onnx_file",
    "export_pt2": "export.pt2",
    "fit": "training.fit",
    "fits": "storage.fit",
    "float2uint8": "core.conversions",
    "function_composer": "core.conversions",
    "head_arguments": "tasks.head_arguments",
    "inspect_brick": "storage.read",
    "list_models": "catalog",
    "load_brick": "storage.read",
    "model_info": "catalog",
    "open_data": "data.readers",
    "parameter_groups": "training.optim",
    "per_stage_brick_collections": "training.stage_metrics",
    "predict_rows": "inference.jobs",
    "quantize_onnx": "export.quantize",
    "register_part": "parts.registry",
    "register_task": "tasks.registry",
    "resnet_to_brick": "core.backbone",
    "torch_to_numpy": "core.conversions",
    "unpack_batched_array_to_arrays": "core.conversions",
    "unpack_batched_tensor_to_numpy_format": "core.conversions",
    "unpack_batched_tensor_to_pillow_images": "core.conversions",
    "unpack_batched_tensor_to_torchvision_format": "core.conversions",
    "verify": "storage.verify",
}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'brickyard' has no attribute '{name}'")
    value = getattr(import_module(f"brickyard.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
