"""Checks of the labels of a batch by the model that reads them."""

import pytest
import torch

from brickyard import BrickCollection, BrickInputError, BrickLoss, BrickTrainable, Stage, Tag, create_model

IMAGE = torch.rand(2, 3, 64, 64)
MASK = torch.zeros(2, 64, 64, dtype=torch.int64)


@pytest.fixture(scope="module")
def model():
    return create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 3})


def batch(**changes):
    return {"image": IMAGE, "targets/cls": torch.tensor([0, 2]), "targets/seg": MASK, **changes}


@pytest.mark.parametrize("tags", [Stage.TRAIN.tags, Stage.VALIDATION.tags, {Tag.MODEL, Tag.METRIC}, None])
def test_a_label_out_of_range_is_refused_in_every_stage(model, tags):
    wrong = batch(**{"targets/cls": torch.tensor([0, 3])})
    with pytest.raises(BrickInputError, match=r"targets/cls, row 1: expected classes in \[0, 3\), found \[3\]"):
        model(wrong, tags=tags)


def test_a_label_that_no_chosen_brick_reads_is_not_checked(model):
    model(batch(**{"targets/cls": "not a tensor"}), tags=Tag.MODEL)
    model(batch(**{"targets/cls": "not a tensor"}), outputs=["seg/loss"])


def test_a_misspelled_name_of_labelled_rows_is_an_error_with_the_nearest_name(model):
    rows = torch.tensor([True, False])
    with pytest.raises(BrickInputError, match=r"'labelled/clss'.*no such label.*labelled/cls"):
        model(batch(**{"labelled/clss": rows}))
    model(batch(**{"labelled/cls": rows, "targets/depth": MASK, "labelled/depth": rows}))  # of another head


def test_a_misspelled_label_is_an_error_although_missing_labels_are_skipped(model):
    renamed = {"image": IMAGE, "targets/seg": MASK, "targets/clss": torch.tensor([0, 2])}
    with pytest.raises(BrickInputError, match="'targets/clss': expected 'targets/cls'"):
        model(renamed, skip_missing=True)
    outputs = model({"image": IMAGE, "targets/seg": MASK, "targets/depth": MASK}, skip_missing=True)
    assert "seg/loss" in outputs
    assert "cls/loss" not in outputs


@pytest.mark.parametrize(
    "labelled", [torch.tensor([1, 0]), torch.tensor([True]), torch.ones(2, 1).bool(), [True, True]]
)
def test_labelled_rows_of_another_form_are_refused(model, labelled):
    with pytest.raises(BrickInputError, match=r"labelled/cls: expected a tensor \(B,\) = \(2,\) of torch.bool"):
        model(batch(**{"labelled/cls": labelled}))


def test_check_labels_checks_a_batch_without_running_the_model(model):
    model.check_labels(batch())
    with pytest.raises(BrickInputError, match="targets/seg"):
        model.check_labels(batch(**{"targets/seg": MASK + 3}))


def test_a_replaced_head_is_checked_with_its_own_classes():
    model = create_model("test_resnet_cls", num_classes=2)
    labels = {"image": IMAGE, "targets/cls": torch.tensor([4, 0])}
    with pytest.raises(BrickInputError, match=r"\[0, 2\)"):
        model(labels)
    model.update({"cls": create_model("test_resnet_cls", num_classes=5)["cls"]})
    model(labels)


def test_a_collection_without_tasks_runs_as_before():
    head = BrickTrainable(torch.nn.Linear(4, 2), ["raw"], ["logits"])
    loss = BrickLoss(torch.nn.CrossEntropyLoss(), ["logits", "targets"], ["loss"])
    hand_wired = BrickCollection({"head": head, "loss": loss})
    outputs = hand_wired({"raw": torch.zeros(3, 4), "targets": torch.tensor([0, 1, 1])})
    torch.testing.assert_close(
        outputs["loss"], torch.nn.functional.cross_entropy(outputs["logits"], torch.tensor([0, 1, 1]))
    )


@pytest.mark.parametrize("name", ["test_resnet_cls-multilabel", "test_resnet_det"])
def test_a_model_of_one_class_trains_and_has_metrics(name):
    one = create_model(name, num_classes=1)
    boxes = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([0])}] * 2
    labels = {"targets/cls": torch.tensor([[1], [0]]), "targets/det": boxes}
    read = [label for label in labels if label in one.required_inputs()]
    outputs = one({"image": IMAGE, **{label: labels[label] for label in read}})
    sum(one.extract_losses(outputs).values()).backward()
    assert one.summarize(reset=True)
