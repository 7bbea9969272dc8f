from .core.backbone import (
    BrickBackbone as BrickBackbone,
)
from .core.brick import (
    Brick as Brick,
    BrickInterface as BrickInterface,
)
from .importers.importing import import_model as import_model
from .collection import (
    BrickCollection as BrickCollection,
)
from .storage.fit import BrickInfo as BrickInfo, fits as fits
from .training.add_head import add_head as add_head
from .training.config import TrainingConfig as TrainingConfig, TrainerConfig as TrainerConfig
from .data.label_kinds import LabelKind as LabelKind
from .data.mixed import MixedData as MixedData
from .data.one_label import OneLabel as OneLabel
from .data.readers import open_data as open_data, register_data as register_data
from .training.evaluation import evaluate as evaluate
from .training.fit import fit as fit
from .inference.jobs import predict_rows as predict_rows
from .create import (
    create_model as create_model,
)
from .errors import (
    BrickError as BrickError,
    BrickGraphError as BrickGraphError,
    BrickInputError as BrickInputError,
    BrickIntegrityError as BrickIntegrityError,
    BrickMismatchError as BrickMismatchError,
    BrickNotFoundError as BrickNotFoundError,
    HubConnectionError as HubConnectionError,
    MissingExtraError as MissingExtraError,
    MissingInputError as MissingInputError,
    PushConflictError as PushConflictError,
    UnknownNameError as UnknownNameError,
    UnsafeBrickError as UnsafeBrickError,
)
from .export.onnx_file import export_bricks_as_onnx as export_bricks_as_onnx, export_onnx as export_onnx
from .catalog import (
    ModelInfo as ModelInfo,
    model_info as model_info,
)
from .catalog import find_heads as find_heads, list_models as list_models
from .training.matching import create_model_for as create_model_for
from .core.mermaid import create_mermaid_dag_graph as create_mermaid_dag_graph
from .core.metrics import (
    BrickMetricSingle as BrickMetricSingle,
    BrickMetrics as BrickMetrics,
)
from .core.modules import (
    BrickLoss as BrickLoss,
    BrickModule as BrickModule,
    BrickNotTrainable as BrickNotTrainable,
    BrickTrainable as BrickTrainable,
)
from .training.optim import (
    parameter_groups as parameter_groups,
)
from .core.specs import (
    BackboneSpec as BackboneSpec,
    FeatureSpec as FeatureSpec,
    HeadInfo as HeadInfo,
    InputSpec as InputSpec,
    KeypointSpec as KeypointSpec,
)
from .parts.backbones import BackboneResnet as BackboneResnet
from .parts.classification import ImageClassifier as ImageClassifier
from .core.conversions import (
    batched_tensor_to_channel_last as batched_tensor_to_channel_last,
    float2uint8 as float2uint8,
    function_composer as function_composer,
    torch_to_numpy as torch_to_numpy,
    unpack_batched_array_to_arrays as unpack_batched_array_to_arrays,
    unpack_batched_tensor_to_numpy_format as unpack_batched_tensor_to_numpy_format,
    unpack_batched_tensor_to_pillow_images as unpack_batched_tensor_to_pillow_images,
    unpack_batched_tensor_to_torchvision_format as unpack_batched_tensor_to_torchvision_format,
)
from .parts.detection.targets import (
    PadBoxes as PadBoxes,
)
from .parts.instances.targets import PadInstances as PadInstances
from .parts.metric_state import BaseMetric as BaseMetric, MetricState as MetricState
from .parts.text import EncodeText as EncodeText
from .parts.preprocess import Preprocessor as Preprocessor
from .parts.registry import (
    create_part as create_part,
    register_part as register_part,
)
from .inference.prediction import Prediction as Prediction
from .inference.predictor import Predictor as Predictor
from .export.pt2 import export_aoti as export_aoti, export_pt2 as export_pt2
from .export.quantize import quantize_onnx as quantize_onnx
from .report.report import EvaluationReport as EvaluationReport
from .recipe.recipe import (
    HeadRecipe as HeadRecipe,
    Recipe as Recipe,
)
from .storage.read import inspect_brick as inspect_brick, load_brick as load_brick
from .core.tags import (
    Stage as Stage,
    Tag as Tag,
)
from .tasks.attach import (
    attach_loss as attach_loss,
    attach_metric as attach_metric,
    attach_visualizer as attach_visualizer,
)
from .tasks.head_arguments import head_arguments as head_arguments
from .tasks.metadata import Metadata as Metadata
from .tasks.registry import register_task as register_task
from .tasks.task import (
    HeadSpec as HeadSpec,
    Task as Task,
)
from .training.lightning import LightningBrickCollection as LightningBrickCollection
from .storage.search import FoundHead as FoundHead
from .page.site import write_page as write_page
from .storage.verify import verify as verify
from .core.visualization import (
    BrickPerImageVisualization as BrickPerImageVisualization,
    UNPACK_NO_CONVERSION as UNPACK_NO_CONVERSION,
    UNPACK_TENSORS_TO_NDARRAYS as UNPACK_TENSORS_TO_NDARRAYS,
)
from .training.stage_metrics import per_stage_brick_collections as per_stage_brick_collections

from .recipe.torchvision_resnet import resnet_to_brick as resnet_to_brick

__version__: str
