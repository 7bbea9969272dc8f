"""Several heads on one backbone: names, losses, labels for some of them, freezing."""

import hashlib
from pathlib import Path

import pytest
import torch

import brickyard
from brickyard import BrickInputError, UnknownNameError, create_model


def _model(**options: object) -> brickyard.BrickCollection:
    tasks = {"age": "cls", "breed": "cls-attention"}
    return create_model(backbone="test_resnet", tasks=tasks, num_classes={"age": 3, "breed": 7}, **options)


def _batch() -> dict[str, torch.Tensor]:
    targets = {"targets/age": torch.tensor([0, 1]), "targets/breed": torch.tensor([0, 6])}
    return {"image": torch.rand(2, 3, 64, 64), **targets}


def test_two_heads_of_one_task_have_names_of_their_own() -> None:
    outputs = _model()(_batch(), tags={"MODEL", "LOSS"})
    assert outputs["age/logits"].shape == (2, 3)
    assert outputs["breed/logits"].shape == (2, 7)
    assert {"age/loss", "breed/loss"} <= set(outputs)


def test_two_heads_of_one_task_come_back_from_a_folder(tmp_path: Path) -> None:
    model = _model(loss_weights={"age": 2.0}).eval()
    model.save_pretrained(tmp_path / "model")
    again = create_model(f"local-dir:{tmp_path / 'model'}").eval()
    batch = _batch()
    for name, value in model(batch, tags={"MODEL", "LOSS"}).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(again(batch, tags={"MODEL", "LOSS"})[name], value)


def test_a_fixed_weighted_sum_is_the_one_loss() -> None:
    model = _model(loss_weights={"age": 2.0})
    outputs = model(_batch(), tags={"MODEL", "LOSS"})
    losses = model.extract_losses(outputs)
    assert list(losses) == ["loss"]
    torch.testing.assert_close(losses["loss"], 2 * outputs["age/loss"] + outputs["breed/loss"])


def test_learned_weights_are_parameters_that_get_gradients() -> None:
    model = _model(loss_weights="learned")
    model.extract_losses(model(_batch(), tags={"MODEL", "LOSS"}))["loss"].backward()
    assert model["loss"].model.log_variance.grad.abs().sum() > 0


def test_a_batch_with_labels_for_one_head_only_trains_that_head() -> None:
    model = _model(loss_weights={"age": 2.0})
    batch = _batch()
    del batch["targets/breed"]
    outputs = model(batch, tags={"MODEL", "LOSS"}, skip_missing=True)
    torch.testing.assert_close(outputs["loss"], 2 * outputs["age/loss"])
    outputs["loss"].backward()
    assert model["age/head"].model.weight.grad is not None
    assert model["breed/head"].model.fc.weight.grad is None


def test_unlabelled_rows_give_no_gradient() -> None:
    model = _model().eval()
    batch = {**_batch(), "labelled/age": torch.tensor([False, True])}
    batch["image"].requires_grad_()
    model(batch, tags={"MODEL", "LOSS"})["age/loss"].backward()
    assert batch["image"].grad[0].abs().sum() == 0
    assert batch["image"].grad[1].abs().sum() > 0


def test_one_head_runs_without_the_other() -> None:
    model = _model()
    calls: list[str] = []
    for name in ("age", "breed"):
        model[f"{name}/head"].register_forward_hook(lambda *_, name=name: calls.append(name))
    assert list(model(_batch(), outputs=["breed/logits"])) == ["breed/logits"]
    assert calls == ["breed"]


def test_a_frozen_backbone_keeps_its_files_hash_through_training(tmp_path: Path) -> None:
    model = _model()
    model.freeze("backbone")
    model.train()
    hashes = []
    for step in range(2):
        model.save_bricks(tmp_path / str(step))
        hashes.append(hashlib.sha256((tmp_path / str(step) / "backbone.safetensors").read_bytes()).hexdigest())
        loss = sum(model.extract_losses(model(_batch(), tags={"MODEL", "LOSS"})).values())
        loss.backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert hashes[0] == hashes[1]
    before = (tmp_path / "0" / "age" / "head.safetensors").read_bytes()
    assert before != (tmp_path / "1" / "age" / "head.safetensors").read_bytes()


def test_an_unfrozen_brick_trains_again() -> None:
    model = _model()
    model.freeze("backbone")
    model.unfreeze("backbone")
    assert all(parameter.requires_grad for parameter in model["backbone"].parameters())
    assert all(module.training for module in model.train()["backbone"].modules())


def test_a_multilabel_head_learns_several_classes_a_picture() -> None:
    model = create_model("test_resnet_cls-multilabel", num_classes=3)
    batch = {"image": torch.rand(2, 3, 64, 64), "targets/cls": torch.tensor([[1, 0, 1], [0, 0, 0]])}
    outputs = model(batch, tags={"MODEL", "LOSS", "METRIC"})
    torch.testing.assert_close(outputs["cls/probabilities"], outputs["cls/logits"].sigmoid())
    assert set(model.summarize(reset=True)) == {"cls/F1", "cls/MeanAveragePrecision", "cls/ExactMatch"}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"backbone": "test_resnet", "tasks": {"a": "clas"}}, UnknownNameError, "'cls'"),
        ({"backbone": "test_resnt", "tasks": {"a": "cls"}}, UnknownNameError, "'test_resnet'"),
        ({"backbone": "test_resnet"}, BrickInputError, "tasks"),
        ({"name": "test_resnet_cls", "num_classes": {"seg": 3}}, BrickInputError, "num_classes"),
        ({"name": "test_resnet_cls", "loss_weights": {"seg": 3}}, BrickInputError, "loss_weights"),
        ({"name": "test_resnet_cls", "loss_weights": "learnt"}, BrickInputError, "learned"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        create_model(**arguments)


def test_an_image_of_a_wrong_size_names_the_size_that_the_backbone_fixes() -> None:
    model = create_model("vit_tiny_patch16_224_cls", num_classes=2, depth=1)
    with pytest.raises(BrickInputError, match=r"backbone.*224x224.*128x96"):
        model({"image": torch.rand(1, 3, 128, 96)}, tags={"MODEL"})
    free = create_model("vit_tiny_patch16_224_cls", num_classes=2, depth=1, img_size=(128, 96))
    assert free({"image": torch.rand(1, 3, 128, 96)}, tags={"MODEL"})["cls/logits"].shape == (1, 2)


@pytest.mark.parametrize("name", ["test_resnet_cls_seg_det", "test_vit_cls_seg-lraspp_det-ssdlite"])
def test_three_heads_train_every_weight_and_predict_in_one_pass(name: str, tmp_path: Path) -> None:
    model = create_model(name, num_classes={"cls": 3, "seg": 4, "det": 2})
    boxes = [{"boxes": torch.tensor([[8.0, 8.0, 90.0, 70.0]]), "labels": torch.tensor([1])}, _no_boxes()]
    batch = {
        "image": torch.rand(2, 3, 160, 160),
        "targets/cls": torch.tensor([0, 2]),
        "targets/seg": torch.randint(0, 4, (2, 160, 160)),
        "targets/det": boxes,
    }
    outputs = model(batch, tags=brickyard.Stage.TRAIN.tags)
    sum(model.extract_losses(outputs).values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    photo = Path(brickyard.__file__).parent / "samples" / "coffee.jpg"
    (prediction,) = brickyard.Predictor(model).predict(photo, draw=True)
    assert set(prediction.results) == {"cls", "seg", "det"}
    assert prediction.visualization is not None
    assert prediction.visualization.width == 600


def _no_boxes() -> dict[str, torch.Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}


def test_a_batch_without_any_label_has_no_loss_and_no_error() -> None:
    model = _model(loss_weights="learned")
    outputs = model({"image": torch.rand(2, 3, 64, 64)}, skip_missing=True)
    assert model.extract_losses(outputs) == {}


def test_a_frozen_head_comes_back_frozen(tmp_path: Path) -> None:
    model = _model()
    model.freeze("age")
    model.save_pretrained(tmp_path / "model")
    again = create_model(f"local-dir:{tmp_path / 'model'}")
    assert not again["age/head"].trainable
    assert not any(parameter.requires_grad for parameter in again["age"].parameters())
    assert all(parameter.requires_grad for parameter in again["breed/head"].parameters())
