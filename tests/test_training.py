"""Training with pytorch-lightning, as the README of TorchBricks 0.4 shows it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchvision
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
    LightningBrickCollection,
    Preprocessor,
    Stage,
    create_model,
    per_stage_brick_collections,
    resnet_to_brick,
)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        r"Starting from v1.9.0, `tensorboardX` has been removed:UserWarning",
        r".*treespec, LeafSpec.*is deprecated:FutureWarning",
        r"The number of training batches:pytorch_lightning.utilities.warnings.PossibleUserWarning",
        r"Found \d+ module\(s\) in eval mode:pytorch_lightning.utilities.warnings.PossibleUserWarning",
        r"The '\w+_dataloader' does not have many workers:pytorch_lightning.utilities.warnings.PossibleUserWarning",
    )
]


class Cifar10Like(pl.LightningDataModule):
    """Random pictures in the shape of CIFAR10; each is told by its mean colour."""

    def __init__(self, batch_size: int = 5, length: int = 10) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.labels = torch.arange(length) % 10
        self.pictures = torch.rand(length, 3, 32, 32) * 0.2 + self.labels.view(-1, 1, 1, 1) / 13

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.pictures, self.labels), batch_size=self.batch_size)

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


def lightning(collection: BrickCollection, path: Path, **options: Any) -> LightningBrickCollection:
    create_optimizer_func = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
    return LightningBrickCollection(
        path_experiments=path,
        experiment_name=None,
        brick_collection=collection,
        create_optimizers_func=options.pop("optimizer", create_optimizer_func),
        **options,
    )


def quiet_trainer(path: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.slow
def test_the_block_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_module = Cifar10Like(batch_size=5)
    module = lightning(cifar_collection(), Path("build") / "experiments")
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=2, limit_test_batches=2)
    trainer.fit(module, datamodule=data_module)
    assert {"train/loss_ce", "validation/loss_ce"} <= set(trainer.callback_metrics)
    results = trainer.test(module, datamodule=data_module)
    assert set(results[0]) == {"test/loss_ce", "test/MulticlassAccuracy"}
    assert module.path_experiment == Path("build") / "experiments" / "default"


def test_the_loss_goes_down_on_a_batch_that_is_seen_again_and_again(tmp_path):
    data = Cifar10Like(batch_size=10)
    model = create_model("test_resnet_cls", num_classes=10)
    module = lightning(
        model, tmp_path, batch_names=("image", "targets/cls"), optimizer=partial(torch.optim.Adam, lr=3e-3)
    )
    losses = []

    class Record(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            losses.append(trainer.callback_metrics["train/cls/loss"].item())

    before = model["cls/head"].model.weight.detach().clone()
    quiet_trainer(tmp_path, max_epochs=40, limit_val_batches=0, callbacks=[Record()]).fit(module, datamodule=data)
    assert len(losses) == 40
    assert losses[-1] < 0.3 * losses[0]
    assert not torch.equal(model["cls/head"].model.weight, before)  # the collection that was given is trained


def test_what_is_logged_is_the_loss_and_the_metric_over_the_epoch(tmp_path):
    data = Cifar10Like(batch_size=4, length=10)
    collection = cifar_collection()
    module = lightning(collection, tmp_path)
    result = quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)[0]
    collection.eval()
    with torch.no_grad():
        logits = collection({"raw": data.pictures}, outputs=["logits"])["logits"]
    expected = nn.functional.cross_entropy(logits, data.labels).item()
    assert result["test/loss_ce"] == pytest.approx(expected, rel=1e-4)
    right = (logits.argmax(1) == data.labels).float().mean().item()
    assert result["test/MulticlassAccuracy"] == pytest.approx(right)


def test_a_validation_leaves_the_metrics_of_training_alone(tmp_path):
    data = Cifar10Like(batch_size=5)
    module = lightning(cifar_collection(), tmp_path)
    counted = {}

    class Count(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for stage in ("TRAIN", "VALIDATION"):
                metric = module.bricks[stage]["accuracy"].metrics["MulticlassAccuracy"]
                counted[stage] = int((metric.tp + metric.fn).sum())

    trainer = quiet_trainer(tmp_path, max_epochs=1, val_check_interval=1, limit_val_batches=1, callbacks=[Count()])
    trainer.fit(module, datamodule=data)
    assert counted["TRAIN"] in (0, 10)  # all of the epoch, or reset once it was logged; never mixed with validation
    assert counted["VALIDATION"] == 0
    assert {"train/MulticlassAccuracy", "validation/MulticlassAccuracy"} <= set(trainer.callback_metrics)


def test_stages_share_modules_but_not_metrics():
    stages = per_stage_brick_collections(cifar_collection())
    assert set(stages) == {"TRAIN", "VALIDATION", "TEST"}
    batch = {"raw": torch.rand(4, 3, 32, 32), "targets": torch.arange(4)}
    stages["TRAIN"](batch, tags=Stage.TRAIN.tags)
    assert list(stages["TRAIN"].summarize(reset=False)) == ["MulticlassAccuracy"]
    assert stages["VALIDATION"].summarize(reset=False) == {}
    assert stages["TEST"].summarize(reset=False) == {}
    assert stages["TRAIN"]["backbone"].model is stages["TEST"]["backbone"].model
    once = sum(parameter.numel() for parameter in cifar_collection().parameters())
    assert sum(parameter.numel() for parameter in stages.parameters()) == once


def test_only_trainable_parameters_go_to_the_optimizer(tmp_path):
    collection = cifar_collection()
    collection["backbone"].requires_grad_(False)
    optimizer = lightning(collection, tmp_path).configure_optimizers()
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert given == {id(parameter) for parameter in collection["image_classifier"].parameters()}


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


def test_without_a_loss_the_error_says_so(tmp_path):
    collection = cifar_collection()
    collection.pop("loss")
    module = lightning(collection, tmp_path)
    with pytest.raises(BrickGraphError, match="loss"):
        module.training_step((torch.rand(2, 3, 32, 32), torch.tensor([1, 2])), 0)
