"""The README of TorchBricks 0.4, block by block, as it is printed there, with brickyard's one import face.

Where a block is broken there, it does what it means. The blocks on Lightning and on visualizations stand in files of
their own.
"""

from pathlib import Path
from typing import Any, Dict  # noqa: UP035 - as the README has them

import onnx
import onnxruntime
import pytest
import torch
import torchvision
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from brickyard import (
    BrickCollection,
    BrickInterface,
    BrickLoss,
    BrickMetricSingle,
    BrickNotTrainable,
    BrickTrainable,
    ImageClassifier,
    Preprocessor,
    create_mermaid_dag_graph,
    export_bricks_as_onnx,
    resnet_to_brick,
)
from tests.seeds.dummies import ClassifierDummy, PreprocessorDummy, TinyModel

DATA = Path(__file__).parents[1] / "data"


PRINTED = """\
BrickCollection(
  (preprocessor): BrickNotTrainable(PreprocessorDummy, input_names=['raw_images'], output_names=['processed'], tags={'MODEL'})
  (backbone): BrickTrainable(TinyModel, input_names=['processed'], output_names=['embedding'], tags={'MODEL'})
  (head): BrickTrainable(ClassifierDummy, input_names=['embedding'], output_names=['logits', 'softmaxed'], tags={'MODEL'})
  (loss): BrickLoss(CrossEntropyLoss, input_names=['logits', 'targets'], output_names=['loss_ce'], tags={'LOSS'})
)"""  # noqa: E501

batch_size = 2
batched_images = torch.rand((batch_size, 3, 100, 200))
num_classes = 10


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_concept_1_bricks_are_connected():
    bricks = {
        "preprocessor": BrickNotTrainable(PreprocessorDummy(), input_names=["raw_images"], output_names=["processed"]),
        "backbone": BrickTrainable(
            TinyModel(n_channels=3, n_features=10), input_names=["processed"], output_names=["embedding"]
        ),
        "head": BrickTrainable(
            ClassifierDummy(num_classes=3, in_features=10),
            input_names=["embedding"],
            output_names=["logits", "softmaxed"],
        ),
    }
    brick_collection = BrickCollection(bricks)
    assert create_mermaid_dag_graph(brick_collection) == (DATA / "seed_model.mmd").read_text()

    named_inputs = {"raw_images": batched_images}
    named_outputs = brick_collection(named_inputs=named_inputs)
    assert str(named_outputs.keys()) == "dict_keys(['raw_images', 'processed', 'embedding', 'logits', 'softmaxed'])"


def test_concept_2_bricks_are_tagged():
    bricks = {
        "preprocessor": BrickNotTrainable(
            PreprocessorDummy(), input_names=["raw_images"], output_names=["processed"], tags="MODEL"
        ),
        "backbone": BrickTrainable(
            TinyModel(n_channels=3, n_features=10), input_names=["processed"], output_names=["embedding"], tags="MODEL"
        ),
        "head": BrickTrainable(
            ClassifierDummy(num_classes=3, in_features=10),
            input_names=["embedding"],
            output_names=["logits", "softmaxed"],
            tags="MODEL",
        ),
        "loss": BrickLoss(
            model=nn.CrossEntropyLoss(), input_names=["logits", "targets"], output_names=["loss_ce"], tags="LOSS"
        ),
    }
    brick_collection = BrickCollection(bricks)
    assert str(brick_collection) == PRINTED
    assert create_mermaid_dag_graph(brick_collection) == (DATA / "seed_model_with_loss.mmd").read_text()

    named_inputs = {"raw_images": batched_images, "targets": torch.ones((batch_size), dtype=torch.int64)}
    model_names = ["raw_images", "targets", "processed", "embedding", "logits", "softmaxed"]
    # With no tags specified, all bricks are executed
    named_outputs = brick_collection(named_inputs=named_inputs)
    assert list(named_outputs) == [*model_names, "loss_ce"]
    # With tags specified, only bricks with the specified tags are executed
    named_outputs = brick_collection(named_inputs=named_inputs, tags={"MODEL"})
    assert list(named_outputs) == model_names
    # Or execute explicitly "MODEL" and "LOSS" group bricks
    named_outputs = brick_collection(named_inputs=named_inputs, tags={"MODEL", "LOSS"})
    assert list(named_outputs) == [*model_names, "loss_ce"]


@pytest.fixture(scope="module")
def resnet_brick():
    resnet = torchvision.models.resnet18(weights=None, num_classes=num_classes)
    return resnet_to_brick(resnet=resnet, input_name="normalized", output_name="features")


@pytest.fixture(scope="module")
def brick_collection(resnet_brick):
    n_features = resnet_brick.model.n_backbone_features
    bricks = {
        "preprocessor": BrickNotTrainable(Preprocessor(), input_names=["raw"], output_names=["normalized"]),
        "backbone": resnet_brick,
        "head": BrickTrainable(
            ImageClassifier(num_classes=num_classes, n_features=n_features),
            input_names=["features"],
            output_names=["logits", "probabilities", "class_prediction"],
        ),
        "accuracy": BrickMetricSingle(
            MulticlassAccuracy(num_classes=num_classes), input_names=["class_prediction", "targets"]
        ),
        "loss": BrickLoss(model=nn.CrossEntropyLoss(), input_names=["logits", "targets"], output_names=["loss_ce"]),
    }
    return BrickCollection(bricks)


@pytest.fixture
def named_inputs():
    return {"raw": batched_images, "targets": torch.ones((batch_size), dtype=torch.int64)}


def test_torchmetrics(brick_collection, named_inputs):
    # Simulate dataloader
    named_input_simulated = named_inputs
    dataloader_simulated = [named_input_simulated for _ in range(5)]
    predictions = []

    # Loop over the dataset
    for named_inputs in dataloader_simulated:  # Simulates iterating over the dataset  # noqa: PLR1704
        named_outputs = brick_collection(named_inputs=named_inputs)
        named_outputs_losses_only = brick_collection.extract_losses(named_outputs=named_outputs)
        predictions.append(named_outputs["class_prediction"])

    metrics = brick_collection.summarize(reset=True)
    assert list(named_outputs) == [
        *["raw", "targets", "normalized", "features", "logits", "probabilities", "class_prediction", "loss_ce"]
    ]
    assert named_outputs_losses_only == {"loss_ce": named_outputs["loss_ce"]}
    # macro accuracy over the classes that occur, and every target is class 1
    reference = MulticlassAccuracy(num_classes=num_classes)
    assert metrics == {"MulticlassAccuracy": reference(torch.cat(predictions), torch.ones(10, dtype=torch.int64))}


def test_act_as_a_nn_module(brick_collection, named_inputs):
    # Move to specify device (CPU/GPU) or precision to automatically move model parameters
    brick_collection.to(torch.float16)
    brick_collection.to(torch.float32)

    # Save model parameters
    path_model = Path("build/readme_model.pt")
    path_model.parent.mkdir(parents=True, exist_ok=True)
    torch.save(brick_collection.state_dict(), path_model)

    # Load model parameters
    brick_collection.load_state_dict(torch.load(path_model, weights_only=True))

    # Iterate all parameters
    for name, params in brick_collection.named_parameters():  # noqa: B007
        pass

    # Iterate all layers
    for name, module in brick_collection.named_modules():  # noqa: B007
        pass

    # Using compile with pytorch >= 2.0
    torch.compile(brick_collection)


def create_image_classification_head(
    num_classes: int, in_channels: int, features_name: str, targets_name: str
) -> Dict[str, BrickInterface]:  # noqa: UP006
    """Image classifier bricks: Classifier, loss and metrics"""
    head = {
        "classify": BrickTrainable(
            ImageClassifier(num_classes=num_classes, n_features=in_channels),
            input_names=[features_name],
            output_names=["./logits", "./probabilities", "./class_prediction"],
        ),
        "accuracy": BrickMetricSingle(
            MulticlassAccuracy(num_classes=num_classes), input_names=["./class_prediction", targets_name]
        ),
        "loss": BrickLoss(
            model=nn.CrossEntropyLoss(), input_names=["./logits", targets_name], output_names=["./loss_ce"]
        ),
    }
    return head  # noqa: RET504


@pytest.fixture(scope="module")
def brick_collections(resnet_brick):
    n_features = resnet_brick.model.n_backbone_features
    bricks = {
        "preprocessor": BrickNotTrainable(Preprocessor(), input_names=["raw"], output_names=["normalized"]),
        "backbone": resnet_brick,
        "head0": create_image_classification_head(
            num_classes=3, in_channels=n_features, features_name="features", targets_name="targets0"
        ),
        "head1": create_image_classification_head(
            num_classes=5, in_channels=n_features, features_name="features", targets_name="targets1"
        ),
    }
    return BrickCollection(bricks)


def test_nested_bricks_and_relative_names(brick_collections):
    assert "(head1): BrickCollection(\n    (classify): BrickTrainable(ImageClassifier, " in str(brick_collections)
    assert create_mermaid_dag_graph(brick_collections) == (DATA / "seed_two_heads.mmd").read_text()
    targets = {f"targets{head}": torch.ones((batch_size), dtype=torch.int64) for head in range(2)}
    named_outputs = brick_collections({"raw": batched_images, **targets})
    assert named_outputs["head0/logits"].shape == (batch_size, 3)
    assert named_outputs["head1/logits"].shape == (batch_size, 5)
    assert list(brick_collections.extract_losses(named_outputs)) == ["head0/loss_ce", "head1/loss_ce"]
    assert list(brick_collections.summarize(reset=True)) == ["head0/MulticlassAccuracy", "head1/MulticlassAccuracy"]


def test_save_and_loading_bricks(brick_collections):
    path_model_folder = Path("build/bricks")

    # Saving model parameters brick-collection style
    brick_collections.save_bricks(path_model_folder=path_model_folder, exist_ok=True)

    files = sorted(path.as_posix() for path in path_model_folder.rglob("*.safetensors"))
    assert files == [f"build/bricks/{name}.safetensors" for name in ("backbone", "head0/classify", "head1/classify")]

    # Loading model parameters brick-collection style
    brick_collections.load_bricks(path_model_folder=path_model_folder)


@pytest.mark.slow
def test_export_as_onnx(brick_collection, named_inputs):
    path_build = Path("build")
    path_build.mkdir(exist_ok=True)
    path_onnx = path_build / "readme_model.onnx"

    export_bricks_as_onnx(
        path_onnx=path_onnx, brick_collection=brick_collection, named_inputs=named_inputs, dynamic_batch_size=True
    )

    onnx.checker.check_model(onnx.load(path_onnx))
    session = onnxruntime.InferenceSession(path_onnx)
    assert [value.name for value in session.get_inputs()] == ["raw"]
    images = torch.rand((5, 3, 100, 200))
    names = ["logits", "probabilities", "class_prediction"]
    expected = brick_collection.eval()({"raw": images}, tags={"MODEL"})
    for name, value in zip(names, session.run(names, {"raw": images.numpy()}), strict=True):
        torch.testing.assert_close(torch.from_numpy(value), expected[name], rtol=1e-3, atol=1e-4)


class MyNewPostProcessor(torch.nn.Module):
    def forward(self, named_inputs: Dict[str, Any]):  # noqa: UP006
        ## Here `named_inputs` contains all intermediate tensors
        assert "raw" in named_inputs
        assert "embedding" in named_inputs
        return named_inputs["embedding"]


def test_pass_all_intermediate_tensors_to_brick():
    bricks = {
        "backbone": BrickTrainable(
            TinyModel(n_channels=3, n_features=10), input_names=["raw"], output_names=["embedding"]
        ),
        "post_processor": BrickNotTrainable(
            MyNewPostProcessor(), input_names=["__all__"], output_names=["postprocessed"]
        ),
    }
    brick_collection = BrickCollection(bricks)
    named_outputs = brick_collection(named_inputs={"raw": torch.rand((2, 3, 100, 200))})
    assert torch.equal(named_outputs["postprocessed"], named_outputs["embedding"])
