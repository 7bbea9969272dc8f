from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

import brickyard
from brickyard import LabelKind
from brickyard.data.collate import collate
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.errors import BrickInputError

KINDS = DigitScenes.kinds


def without(sample, *tasks):
    return {name: value for name, value in sample.items() if name.removeprefix("targets/") not in tasks}


@pytest.fixture
def scenes():
    return [*DigitScenes("train", 3), *DigitScenes("train", 1, digits=(0, 0))]


def test_images_and_labels_are_stacked_and_boxes_are_a_list(scenes):
    batch = collate(scenes, KINDS)
    assert list(batch) == list(scenes[0])
    for name in ("image", "targets/cls", "targets/seg"):
        assert torch.equal(batch[name], torch.stack([scene[name] for scene in scenes]))
    assert batch["targets/det"] == [scene["targets/det"] for scene in scenes]


def test_rows_without_a_label_are_marked_and_neutral(scenes):
    batch = collate([without(scenes[0], "seg", "det"), scenes[1], without(scenes[2], "cls")], KINDS)
    assert batch["labelled/cls"].tolist() == [True, True, False]
    assert batch["labelled/seg"].tolist() == [False, True, True]
    assert batch["labelled/det"].tolist() == [False, True, True]
    assert batch["targets/cls"][2].tolist() == [0] * 10
    assert torch.equal(batch["targets/seg"][0], torch.full((96, 96), 255))
    assert batch["targets/det"][0]["boxes"].shape == (0, 4)
    assert batch["targets/det"][0]["labels"].shape == (0,)
    assert batch["targets/det"][0]["labels"].dtype == torch.int64
    assert torch.equal(batch["targets/cls"][0], scenes[0]["targets/cls"])
    assert torch.equal(batch["targets/seg"][2], scenes[2]["targets/seg"])


def test_a_task_that_no_sample_has_a_label_of_is_absent(scenes):
    batch = collate([without(scene, "seg") for scene in scenes], KINDS)
    assert set(batch) == set(scenes[0]) - {"targets/seg"}


def test_any_label_and_kind_of_value_is_taken():
    image = torch.zeros(3, 4, 4)
    kinds = {
        "age": LabelKind.METADATA,
        "breed": LabelKind.CLASS_INDEX,
        "depth": LabelKind.DENSE_MAP,
        "parts": LabelKind.MASK,
    }
    samples = [
        {"image": image, "targets/age": 3.5, "targets/breed": 7, "targets/depth": torch.ones(4, 4), "file": "a"},
        {"image": image, "targets/breed": 2, "targets/parts": torch.ones(4, 4, dtype=torch.uint8), "file": "b"},
        {"image": image, "file": "c"},
    ]
    batch = collate(samples, kinds)
    assert batch["targets/age"].tolist() == [3.5, 0.0, 0.0]
    assert batch["targets/breed"].tolist() == [7, 2, 0]
    assert batch["targets/breed"].dtype == torch.int64
    assert batch["targets/depth"][1:].unique().tolist() == [0.0]
    assert batch["targets/parts"][[0, 2]].unique().tolist() == [255]
    assert batch["targets/parts"].dtype == torch.uint8
    assert batch["file"] == ["a", "b", "c"]
    assert batch["labelled/breed"].tolist() == [True, True, False]


def test_samples_are_not_modified(scenes):
    samples = [without(scenes[0], "seg"), scenes[1]]
    names = [list(sample) for sample in samples]
    batch = collate(samples, KINDS)
    batch["image"].zero_()
    assert [list(sample) for sample in samples] == names
    assert samples[0]["image"].any()


def test_it_is_the_collate_fn_of_a_loader():
    scenes = DigitScenes("val", 5)
    batches = list(DataLoader(scenes, batch_size=2, collate_fn=partial(collate, kinds=scenes.kinds)))
    assert [len(batch["targets/det"]) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), collate([*scenes], scenes.kinds)["image"])


def test_samples_that_cannot_be_collated_are_refused(scenes):
    with pytest.raises(BrickInputError, match="one sample"):
        collate([], KINDS)
    with pytest.raises(BrickInputError, match=r"'image'.*rows \[1\].*targets/"):
        collate([scenes[0], without(scenes[1], "image")], KINDS)
    with pytest.raises(BrickInputError, match=r"'image'.*\(3, 8, 8\)"):
        collate([scenes[0], {**scenes[1], "image": torch.zeros(3, 8, 8)}], KINDS)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return brickyard.create_model(
        "test_resnet_cls-multilabel_seg_det", num_classes={"cls": 10, "seg": 11, "det": 10}
    ).train()


def losses_of(model, batch):
    outputs = model(batch, tags=brickyard.Stage.TRAIN.tags, skip_missing=True)
    return model.extract_losses(outputs)


def test_a_training_step_takes_the_batch_of_all_tasks(model, scenes):
    losses = losses_of(model, collate(scenes, KINDS))
    assert set(losses) >= {"cls/loss", "seg/loss"}
    assert any(name.startswith("det/") for name in losses)
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_a_training_step_leaves_out_a_task_that_no_row_has_a_label_of(model, scenes):
    full = set(losses_of(model, collate(scenes, KINDS)))
    partly = set(losses_of(model, collate([without(scene, "seg") for scene in scenes], KINDS)))
    assert partly == {name for name in full if not name.startswith("seg/")}


def test_rows_without_labels_do_not_affect_the_loss(model, scenes):
    """In evaluation mode rows do not affect each other, so that the labelled rows alone are the reference."""
    model.eval()
    unlabelled = without(scenes[2], "cls", "seg", "det")
    mixed = losses_of(model, collate([scenes[0], scenes[1], unlabelled, scenes[3]], KINDS))
    alone = losses_of(model, collate([scenes[0], scenes[1], scenes[3]], KINDS))
    model.train()
    assert mixed.keys() == alone.keys()
    for name, loss in mixed.items():
        assert loss.item() == pytest.approx(alone[name].item(), rel=1e-4), name
