"""Training with pytorch-lightning, as the README of TorchBricks 0.4 shows it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchvision
from PIL import Image
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickLoss,
    BrickMetricSingle,
    BrickNotTrainable,
    BrickTrainable,
    ImageClassifier,
    Preprocessor,
    create_model,
    resnet_to_brick,
)
from tests.runs import Rectangles, collate_rectangles, small_model
from tests.training.toys import MULTITASK, lightning, quiet_trainer


class Cifar10Like(pl.LightningDataModule):
    """Random images in the shape of CIFAR10; the class is the mean colour."""

    def __init__(self, batch_size: int = 5, length: int = 10) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.labels = torch.arange(length) % 10
        self.images = torch.rand(length, 3, 32, 32) * 0.2 + self.labels.view(-1, 1, 1, 1) / 13

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = _loader


def cifar_collection() -> BrickCollection:
    resnet = torchvision.models.resnet18(weights=None)
    return BrickCollection(
        {
            "preprocessor": BrickNotTrainable(Preprocessor(), input_names=["raw"], output_names=["processed"]),
            "backbone": resnet_to_brick(resnet, input_name="processed", output_name="features"),
            "image_classifier": BrickTrainable(
                ImageClassifier(num_classes=10, n_features=resnet.fc.in_features),
                input_names=["features"],
                output_names=["logits", "probabilities", "class_prediction"],
            ),
            "accuracy": BrickMetricSingle(MulticlassAccuracy(10, average="micro"), input_names=["logits", "targets"]),
            "loss": BrickLoss(nn.CrossEntropyLoss(), input_names=["logits", "targets"], output_names=["loss_ce"]),
        }
    )


class Memory(Logger):
    """Keep the logged values in memory."""

    name = version = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.images: dict[str, list[Any]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.images[key] = images


@pytest.mark.slow
def test_the_block_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_module = Cifar10Like(batch_size=5)
    module = lightning(cifar_collection(), Path("build") / "experiments")
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=2, limit_test_batches=2)
    trainer.fit(module, datamodule=data_module)
    assert {"train/loss_ce", "validation/loss_ce"} <= set(trainer.callback_metrics)
    results = trainer.test(module, datamodule=data_module)
    assert set(results[0]) == {"test/loss", "test/loss_ce", "test/MulticlassAccuracy"}
    assert module.path_experiment == Path("build") / "experiments" / "default"


def test_the_loss_decreases_on_a_repeated_batch(tmp_path):
    data = Cifar10Like(batch_size=10)
    model = create_model("test_resnet_cls", num_classes=10)
    module = lightning(
        model, tmp_path, batch_names=("image", "targets/cls"), optimizer=partial(torch.optim.Adam, lr=3e-3)
    )
    before = model["cls/head"].model.weight.detach().clone()
    memory = Memory()
    trainer = quiet_trainer(tmp_path, max_epochs=40, limit_val_batches=0, logger=memory, log_every_n_steps=1)
    trainer.fit(module, datamodule=data)
    losses = [row["train/cls/loss"] for _, row in memory.rows]
    assert len(losses) == 40
    assert losses[-1] < 0.3 * losses[0]
    assert not torch.equal(model["cls/head"].model.weight, before)  # the collection is trained in place


def test_the_loss_and_the_metric_over_the_epoch_are_logged(tmp_path):
    data = Cifar10Like(batch_size=4, length=10)
    collection = cifar_collection()
    module = lightning(collection, tmp_path)
    result = quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)[0]
    collection.eval()
    with torch.no_grad():
        logits = collection({"raw": data.images}, outputs=["logits"])["logits"]
    expected = nn.functional.cross_entropy(logits, data.labels).item()
    assert result["test/loss_ce"] == pytest.approx(expected, rel=1e-4)
    right = (logits.argmax(1) == data.labels).float().mean().item()
    assert result["test/MulticlassAccuracy"] == pytest.approx(right)


def test_a_validation_leaves_the_metrics_of_training_unchanged(tmp_path):
    data = Cifar10Like(batch_size=5)
    module = lightning(cifar_collection(), tmp_path)
    seen = []

    class Count(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            metric = module.bricks["accuracy"].metrics["MulticlassAccuracy"]
            seen.append(int((metric.tp + metric.fn).sum()))

    trainer = quiet_trainer(tmp_path, max_epochs=1, val_check_interval=1, callbacks=[Count()], num_sanity_val_steps=0)
    trainer.fit(module, datamodule=data)
    assert seen == [0, 0]  # training metrics are logged and reset before a validation
    assert {"train/MulticlassAccuracy", "validation/MulticlassAccuracy"} <= set(trainer.callback_metrics)


def test_the_state_dict_is_that_of_the_collection(tmp_path):
    collection = cifar_collection()
    module = lightning(collection, tmp_path)
    assert list(module.state_dict()) == [f"bricks.{key}" for key in collection.state_dict()]


def test_the_optimizer_gets_only_trainable_parameters(tmp_path):
    collection = cifar_collection()
    collection["backbone"].requires_grad_(False)
    optimizer = lightning(collection, tmp_path).configure_optimizers()
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in collection["image_classifier"].parameters()}


def test_a_batch_may_be_a_dictionary(tmp_path):
    module = lightning(cifar_collection(), tmp_path)
    module.log = lambda *args, **kwargs: None
    batch = {"raw": torch.rand(2, 3, 32, 32), "targets": torch.tensor([1, 2])}
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.ndim == 0
    assert module.training_step([batch["raw"], batch["targets"]], 0).ndim == 0


def test_a_batch_of_another_length_is_refused(tmp_path):
    module = lightning(cifar_collection(), tmp_path)
    with pytest.raises(ValueError, match="zip"):
        module.training_step((torch.rand(2, 3, 32, 32),), 0)


def test_a_collection_without_a_loss_is_an_error(tmp_path):
    collection = cifar_collection()
    collection.pop("loss")
    module = lightning(collection, tmp_path)
    with pytest.raises(BrickGraphError, match="loss"):
        module.training_step((torch.rand(2, 3, 32, 32), torch.tensor([1, 2])), 0)


def test_an_epoch_of_one_image_trains_validates_and_tests(tmp_path):
    module = lightning(small_model("test_resnet_cls_seg_det"), tmp_path)
    loader = DataLoader(Rectangles(1), batch_size=1, collate_fn=collate_rectangles)
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, loader, loader)
    assert {"train/loss", "validation/det/map_50", "validation/seg/MeanIoU"} <= set(trainer.callback_metrics)
    assert "test/cls/Accuracy" in trainer.test(module, loader, verbose=False)[0]


def test_training_is_logged_at_the_interval_over_the_steps_since_the_last_row(tmp_path):
    module = lightning(small_model("test_resnet_cls"), tmp_path, optimizer=partial(torch.optim.SGD, lr=0.0))
    memory, data = Memory(), Rectangles(10)
    trainer = quiet_trainer(tmp_path, max_epochs=1, logger=memory, log_every_n_steps=2)
    losses = []
    training_step = module.training_step

    def recording(batch: Any, batch_idx: int) -> torch.Tensor:
        losses.append(training_step(batch, batch_idx))
        return losses[-1]

    module.training_step = recording
    trainer.fit(module, DataLoader(data, batch_size=2, collate_fn=collate_rectangles))
    assert [step for step, _ in memory.rows] == [2, 4, 5]
    values = [float(loss.detach()) for loss in losses]
    expected = [sum(values[0:2]) / 2, sum(values[2:4]) / 2, values[4]]
    assert [row["train/cls/loss"] for _, row in memory.rows] == pytest.approx(expected, rel=1e-5)
    assert [row["train/loss"] for _, row in memory.rows] == pytest.approx(expected, rel=1e-5)
    assert all("train/cls/Accuracy" in row for _, row in memory.rows)


def test_visualizations_of_the_validation_go_to_an_image_logger(tmp_path):
    module = lightning(small_model(MULTITASK), tmp_path, num_visualizations=2)
    memory = Memory()
    loader = DataLoader(Rectangles(6), batch_size=3, collate_fn=collate_rectangles)
    quiet_trainer(tmp_path, logger=memory).validate(module, loader, verbose=False)
    assert sorted(memory.images) == [f"validation/{head}/visualization" for head in ("cls", "det", "seg")]
    assert all(len(images) == 2 for images in memory.images.values())
    assert isinstance(memory.images["validation/seg/visualization"][0], Image.Image)


def test_a_frozen_backbone_is_unchanged_and_has_no_autograd_graph(tmp_path):
    model = small_model(MULTITASK)
    model.freeze("backbone")
    before = {name: value.clone() for name, value in model["backbone"].state_dict().items()}
    seen = []
    model["backbone"].register_forward_hook(lambda brick, inputs, outputs: seen.append(outputs["features"]))
    loader = DataLoader(Rectangles(4), batch_size=2, collate_fn=collate_rectangles)
    quiet_trainer(tmp_path, max_epochs=2).fit(lightning(model, tmp_path), loader)
    assert len(seen) == 4
    assert all(feature.grad_fn is None for features in seen for feature in features)
    for name, value in model["backbone"].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_validate_returns_the_metrics_and_logs_them(tmp_path):
    memory = Memory()
    module = lightning(small_model("test_resnet_cls"), tmp_path)
    loader = DataLoader(Rectangles(4), batch_size=2, collate_fn=collate_rectangles)
    trainer = quiet_trainer(tmp_path, logger=memory)
    results = trainer.validate(module, loader, verbose=False)
    assert results[0].keys() >= {"validation/loss", "validation/cls/loss", "validation/cls/Accuracy"}
    assert results[0] == {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert any("validation/loss" in row for _, row in memory.rows)


def test_predict_returns_the_outputs_of_the_model(tmp_path):
    data = Cifar10Like(batch_size=5, length=10)
    collection = cifar_collection()
    batches = {
        "images and labels": DataLoader(TensorDataset(data.images, data.labels), batch_size=5),
        "images": DataLoader(TensorDataset(data.images), batch_size=5),
        "tensors": DataLoader(list(data.images), batch_size=5),
        "dictionaries": DataLoader([{"raw": image} for image in data.images], batch_size=5),
    }
    expected = collection.eval()({"raw": data.images}, tags={"MODEL"})["class_prediction"]
    for loader in batches.values():
        outputs = quiet_trainer(tmp_path).predict(lightning(collection, tmp_path), loader)
        assert torch.equal(torch.cat([values["class_prediction"] for values in outputs]), expected)
        assert set(outputs[0]) == {"processed", "features", "logits", "probabilities", "class_prediction"}


def test_mixed_precision_trains(tmp_path):
    module = lightning(small_model(MULTITASK), tmp_path)
    loader = DataLoader(Rectangles(4), batch_size=2, collate_fn=collate_rectangles)
    trainer = quiet_trainer(tmp_path, max_epochs=1, precision="bf16-mixed")
    trainer.fit(module, loader, loader)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert trainer.callback_metrics["validation/loss"].isfinite()
