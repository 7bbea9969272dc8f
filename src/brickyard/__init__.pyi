from brickyard.core.backbone import (
    BrickBackbone as BrickBackbone,
    resnet_to_brick as resnet_to_brick,
)
from brickyard.core.brick import (
    Brick as Brick,
    BrickInterface as BrickInterface,
)
from brickyard.collection import (
    BrickCollection as BrickCollection,
)
from brickyard.storage.fit import BrickInfo as BrickInfo, fits as fits
from brickyard.training.config import TrainingConfig as TrainingConfig, TrainerConfig as TrainerConfig
from brickyard.data.label_kinds import LabelKind as LabelKind
from brickyard.data.readers import open_data as open_data
from brickyard.training.evaluation import evaluate as evaluate
from brickyard.training.fit import fit as fit
from brickyard.inference.jobs import predict_rows as predict_rows
from brickyard.create import (
    create_model as create_model,
)
from brickyard.errors import (
    BrickError as BrickError,
    BrickGraphError as BrickGraphError,
    BrickInputError as BrickInputError,
    BrickIntegrityError as BrickIntegrityError,
    BrickMismatchError as BrickMismatchError,
    BrickNotFoundError as BrickNotFoundError,
    MissingExtraError as MissingExtraError,
    MissingInputError as MissingInputError,
    PushConflictError as PushConflictError,
    UnknownNameError as UnknownNameError,
    UnsafeBrickError as UnsafeBrickError,
)
from brickyard.export.onnx_file import export_bricks_as_onnx as export_bricks_as_onnx, export_onnx as export_onnx
from brickyard.catalog import (
    ModelInfo as ModelInfo,
    model_info as model_info,
)
from brickyard.catalog import list_models as list_models
from brickyard.training.matching import create_model_for as create_model_for
from brickyard.core.mermaid import create_mermaid_dag_graph as create_mermaid_dag_graph
from brickyard.core.metrics import (
    BrickMetricSingle as BrickMetricSingle,
    BrickMetrics as BrickMetrics,
)
from brickyard.core.modules import (
    BrickLoss as BrickLoss,
    BrickModule as BrickModule,
    BrickNotTrainable as BrickNotTrainable,
    BrickTrainable as BrickTrainable,
)
from brickyard.training.optim import (
    parameter_groups as parameter_groups,
)
from brickyard.parts.backbones import (
    BackboneResnet as BackboneResnet,
    BackboneSpec as BackboneSpec,
    FeatureSpec as FeatureSpec,
    InputSpec as InputSpec,
)
from brickyard.parts.classification import ImageClassifier as ImageClassifier
from brickyard.core.conversions import (
    batched_tensor_to_channel_last as batched_tensor_to_channel_last,
    float2uint8 as float2uint8,
    function_composer as function_composer,
    torch_to_numpy as torch_to_numpy,
    unpack_batched_array_to_arrays as unpack_batched_array_to_arrays,
    unpack_batched_tensor_to_numpy_format as unpack_batched_tensor_to_numpy_format,
    unpack_batched_tensor_to_pillow_images as unpack_batched_tensor_to_pillow_images,
    unpack_batched_tensor_to_torchvision_format as unpack_batched_tensor_to_torchvision_format,
)
from brickyard.parts.detection.targets import (
    PadBoxes as PadBoxes,
)
from brickyard.parts.metric_state import BaseMetric as BaseMetric, MetricState as MetricState
from brickyard.parts.preprocess import Preprocessor as Preprocessor
from brickyard.parts.registry import (
    create_part as create_part,
    register_part as register_part,
)
from brickyard.inference.predictor import (
    Prediction as Prediction,
    Predictor as Predictor,
)
from brickyard.export.pt2 import export_aoti as export_aoti, export_pt2 as export_pt2
from brickyard.export.quantize import quantize_onnx as quantize_onnx
from brickyard.recipe.names import (
    HeadRecipe as HeadRecipe,
    Recipe as Recipe,
)
from brickyard.storage.read import inspect_brick as inspect_brick, load_brick as load_brick
from brickyard.core.tags import (
    Stage as Stage,
    Tag as Tag,
)
from brickyard.tasks.attach import (
    attach_loss as attach_loss,
    attach_metric as attach_metric,
    attach_visualizer as attach_visualizer,
)
from brickyard.tasks.head_arguments import head_arguments as head_arguments
from brickyard.tasks.metadata import Metadata as Metadata
from brickyard.tasks.registry import register_task as register_task
from brickyard.tasks.task import (
    HeadSpec as HeadSpec,
    Task as Task,
)
from brickyard.training.lightning import LightningBrickCollection as LightningBrickCollection
from brickyard.storage.verify import verify as verify
from brickyard.core.visualization import (
    BrickPerImageVisualization as BrickPerImageVisualization,
    UNPACK_NO_CONVERSION as UNPACK_NO_CONVERSION,
    UNPACK_TENSORS_TO_NDARRAYS as UNPACK_TENSORS_TO_NDARRAYS,
)
from brickyard.training.stage_metrics import per_stage_brick_collections as per_stage_brick_collections

__version__: str
