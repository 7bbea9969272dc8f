"""A head that is added to a trained model and trained alone: nothing else changes by a bit."""

import warnings

import pytest
import torch

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickMismatchError,
    BrickNotTrainable,
    Stage,
    TrainingConfig,
    UnknownNameError,
    UnsafeBrickError,
    add_head,
    create_part,
)
from tests.runs import SIDE, Rectangles, small_model
from tests.storage.test_save_bricks_of_a_model import contents

IMAGES = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
CONFIG = TrainingConfig(steps=4, batch_size=3, every=2, save_every=1, ema=0.5)


@pytest.fixture
def folder(tmp_path):
    model = small_model("test_resnet_cls_det-ssdlite")
    with torch.no_grad():  # statistics other than 0 and 1
        model.train()({"image": IMAGES}, tags={"MODEL"})
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def outputs_of(model):
    with torch.no_grad():
        outputs = model.eval()({"image": IMAGES}, tags=Stage.INFERENCE.tags)
    return outputs | {f"features[{level}]": each for level, each in enumerate(outputs.pop("features"))}


def add(model, out, name="seg", task="seg-lraspp", train=None, config=CONFIG, **options):
    return add_head(model, name, task, train or Rectangles(6), Rectangles(3), out, config, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [("seg", "seg-lraspp"), ("parts", "seg"), ("colour", "cls-attention")])
def test_the_outputs_of_the_other_heads_are_equal_to_the_bit_before_and_after(name, task, folder, tmp_path):
    model = BrickCollection.from_pretrained(folder)
    before, files, state = outputs_of(model), contents(folder), {k: v.clone() for k, v in model.state_dict().items()}
    trainable = {path: brick.trainable for path, brick in model.bricks().items() if hasattr(brick, "trainable")}
    metrics = add(model, tmp_path / "run", name, task)
    assert any(key.startswith(f"validation/{name}/") for key in metrics)
    assert not any(key.startswith(("validation/cls/", "validation/det/")) for key in metrics)
    model.save_pretrained(folder, bricks=name)
    loaded = BrickCollection.from_pretrained(folder)
    for each in (model, loaded):
        after = outputs_of(each)
        assert set(after) > set(before)
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert all(torch.equal(each.state_dict()[key], value) for key, value in state.items())
        assert all(each[path].trainable == value for path, value in trainable.items())
    assert all(torch.equal(outputs_of(loaded)[key], value) for key, value in outputs_of(model).items())
    now = contents(folder)
    assert all(now[file] == content for file, content in files.items() if file != "bricks.json")
    assert all(file.startswith(f"{name}/") for file in now.keys() - files.keys())
    best = BrickCollection.from_pretrained(tmp_path / "run" / "best")
    assert sorted(best) == sorted(["preprocessor", "backbone", name])
    assert torch.equal(outputs_of(best)[f"{name}/logits"], outputs_of(loaded)[f"{name}/logits"])
    info = loaded[f"{name}/head"].head
    assert info.image_size == (SIDE, SIDE)
    assert info.labels == Rectangles(1).labels[task.partition("-")[0]]


@pytest.mark.slow
def test_the_training_of_a_head_lowers_its_loss(folder, tmp_path):
    model = BrickCollection.from_pretrained(folder)
    losses = []
    config = TrainingConfig(steps=24, batch_size=6, every=8, lr=3e-3)
    add(model, tmp_path / "run", config=config, on_validation=lambda now: losses.append(now.metrics["validation/loss"]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


class Failing(Rectangles):
    """Rectangles whose reading fails at a number."""

    def __init__(self, length, at):
        super().__init__(length)
        self.at = at

    def __getitem__(self, index):
        if self.read == self.at:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.slow
def test_a_resumed_training_of_a_head_gives_the_same_weights(folder, tmp_path):
    whole = BrickCollection.from_pretrained(folder)
    add(whole, tmp_path / "whole")
    model = BrickCollection.from_pretrained(folder)
    with pytest.raises(OSError, match="the disk is gone"):
        add(model, tmp_path / "run", train=Failing(6, at=10))
    assert "seg" not in model
    with pytest.raises(FileExistsError, match="holds a training"):
        add(model, tmp_path / "run")
    add(model, tmp_path / "run", resume=True)
    assert whole.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in whole.state_dict().items())
    again = BrickCollection.from_pretrained(folder)
    add(again, tmp_path / "run", resume=True)  # it was finished before, but not saved
    assert torch.equal(outputs_of(again)["seg/logits"], outputs_of(whole)["seg/logits"])
    with torch.no_grad():
        next(again["backbone"].parameters()).add_(1)
    del again["seg"]
    with pytest.raises(BrickMismatchError, match="backbone: expected"):
        add(again, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_head_that_was_trained_in_low_precision_has_the_dtype_of_the_model(folder, tmp_path):
    model = BrickCollection.from_pretrained(folder)
    before = outputs_of(model)
    add(model, tmp_path / "run", config=TrainingConfig(steps=1, batch_size=2, every=1, precision="bf16-true"))
    after = outputs_of(model)
    assert after["seg/logits"].dtype == torch.float32
    assert all(torch.equal(after[key], value) for key, value in before.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(folder, bricks="seg")


@pytest.mark.parametrize(
    ("name", "task", "error", "message"),
    [
        ("cls", "cls", BrickInputError, r"head 'cls'.*does not have, found the bricks \['cls/head"),
        ("backbone", "cls", BrickInputError, "head 'backbone'"),
        ("parts", "segm", UnknownNameError, "Unknown task 'segm'. Did you mean 'seg'"),
        ("parts", "seg-unett", UnknownNameError, "'seg-unet'"),
        (
            "depth",
            "depth",
            BrickMismatchError,
            r"named 'depth', found \['cls', 'seg', 'det'\]. Heads .*seg=seg, det=det",
        ),
        ("cls2", "cls-multilabel", BrickMismatchError, "kind 'multi-hot', found 'class index': use 'cls-linear'"),
        ("CLS", "cls", UnsafeBrickError, "case"),
        ("a/b", "cls", BrickInputError, "'a/b'.*found a path"),
        ("a-b", "cls", UnsafeBrickError, "a-b"),
        ("keys", "cls", BrickGraphError, "keys"),
    ],
)
def test_a_head_that_cannot_be_added_is_refused_before_the_training(name, task, error, message, folder, tmp_path):
    model = BrickCollection.from_pretrained(folder)
    before = list(model.bricks())
    with pytest.raises(error, match=message):
        add(model, tmp_path / "run", name, task)
    assert list(model.bricks()) == before
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_backbone_takes_no_head(tmp_path):
    part = create_part("linear", in_features=4, out_features=2)
    model = BrickCollection({"a": BrickNotTrainable(part, ["image"], ["b"])})
    with pytest.raises(BrickInputError, match="a backbone that declares what it provides"):
        add(model, tmp_path / "run")
