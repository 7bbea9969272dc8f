from dataclasses import replace

import pytest
import torch
from torch import nn

from brickyard import BrickCollection, BrickLoss, Stage, UnknownNameError, create_model
from brickyard.training.loss_bricks import LossBricks
from tests.runs import LABELS, Rectangles, collate_rectangles

TAGS = Stage.TRAIN.tags


def model(**options) -> BrickCollection:
    return create_model("test_resnet_cls_seg-lraspp_det-ssdlite", labels=LABELS, **options)


def batch(*rows: int, **lacking: set[int]) -> dict:
    data = Rectangles(8, lacking)
    return collate_rectangles([data[row] for row in rows])


def test_names_are_those_of_all_losses_and_sub_losses() -> None:
    bricks = LossBricks(model(loss_weights={"seg": 2.0}))
    assert bricks.names == ["cls/loss", "seg/loss", "det/loss", "det/loss_cls", "det/loss_box", "loss"]
    assert bricks.base == ["cls/loss", "seg/loss", "det/loss"]
    assert bricks.outer == ["loss"]
    assert LossBricks(model()).outer == ["cls/loss", "seg/loss", "det/loss"]


def test_counts_are_labelled_rows_and_known_pixels() -> None:
    bricks = LossBricks(model())
    named = batch(0, 1, 2, cls={0}, seg={1, 2})
    named["targets/seg"][0, :4] = 255
    assert bricks.counts(named, bricks.running(named, TAGS)).tolist() == [2, 60 * 64, 3]


def test_points_are_counted_if_they_are_known_and_dense_maps_if_any_pixel_is() -> None:
    bricks = LossBricks(create_model("test_resnet_kpt_depth", num_classes={"kpt": 3}))
    points = torch.full((3, 3, 3), 10.0)
    points[0, 1, 2] = 0
    depth = torch.ones(3, 32, 32)
    depth[1] = 0
    named = {"image": torch.rand(3, 3, 32, 32), "targets/kpt": points, "targets/depth": depth}
    named["labelled/kpt"] = torch.tensor([True, True, False])
    assert bricks.base == ["depth/loss", "kpt/loss"]
    assert bricks.counts(named, bricks.running(named, TAGS)).tolist() == [2, 5]


def test_a_loss_of_bricks_without_a_task_counts_labelled_rows() -> None:
    collection = BrickCollection({"loss": BrickLoss(nn.L1Loss(), ["image", "targets/x"], ["loss"])})
    named = {"image": torch.rand(4, 3, 8, 8), "targets/x": torch.rand(4, 3, 8, 8)}
    bricks = LossBricks(collection)
    assert bricks.counts(named, {"loss"}).tolist() == [4]


def test_a_head_of_an_unregistered_task_is_an_error_that_names_the_task() -> None:
    collection = create_model("test_resnet_seg", num_classes=3)
    collection["seg/head"].head = replace(collection["seg/head"].head, task="parsing")
    named = {"image": torch.rand(1, 3, 32, 32), "targets/seg": torch.zeros(1, 32, 32, dtype=torch.int64)}
    with pytest.raises(UnknownNameError, match="Unknown task 'parsing'"):
        LossBricks(collection).counts(named, {"seg/loss"})


def test_a_loss_without_its_label_has_a_count_of_zero() -> None:
    bricks = LossBricks(model())
    named = batch(0, 1, seg={0, 1})
    running = bricks.running(named, TAGS)
    assert running == {"cls/loss", "det/loss"}
    assert bricks.counts(named, running).tolist() == [2, 0, 2]


@pytest.mark.parametrize("loss_weights", [None, {"cls": 3.0}])
def test_scaled_losses_reach_the_bricks_that_read_them(loss_weights) -> None:
    torch.manual_seed(0)
    collection = model(loss_weights=loss_weights).eval()
    bricks = LossBricks(collection)
    named = batch(0, 1)
    plain = collection(named, tags=TAGS)
    with bricks.scaled(torch.tensor([2.0, 0.0, 1.0])):
        scaled = collection(named, tags=TAGS)
    torch.testing.assert_close(scaled["cls/loss"], 2 * plain["cls/loss"])
    torch.testing.assert_close(scaled["det/loss_box"], plain["det/loss_box"])
    assert scaled["seg/loss"] == 0
    if loss_weights:
        torch.testing.assert_close(scaled["loss"], 6 * plain["cls/loss"] + plain["det/loss"])
    torch.testing.assert_close(collection(named, tags=TAGS)["cls/loss"], plain["cls/loss"])


def test_an_absent_loss_is_a_zero_with_gradients_for_its_head() -> None:
    collection = model()
    bricks = LossBricks(collection)
    named = batch(0, 1, seg={0, 1}, det={0, 1})
    values = collection(named, tags=TAGS, skip_missing=True)
    zeros = bricks.absent(values, bricks.running(named, TAGS))
    total = torch.stack(zeros).sum()
    assert total == 0
    total.backward()
    for head in ("seg", "det"):
        gradients = [parameter.grad for parameter in collection[f"{head}/head"].parameters()]
        assert all(gradient is not None and not gradient.any() for gradient in gradients)
    assert all(parameter.grad is None for parameter in collection["cls/head"].parameters())


def test_an_absent_loss_is_zero_also_where_the_head_is_not_finite() -> None:
    collection = model()
    bricks = LossBricks(collection)
    named = batch(0, 1, seg={0, 1})
    values = collection(named, tags=TAGS, skip_missing=True)
    values["seg/logits"] = values["seg/logits"] * float("inf")
    zeros = bricks.absent(values, bricks.running(named, TAGS))
    assert torch.stack(zeros).sum() == 0


def test_learned_weights_have_gradients_without_any_label() -> None:
    collection = model(loss_weights="learned")
    bricks = LossBricks(collection)
    named = {"image": batch(0, 1)["image"]}
    values = collection(named, tags=TAGS, skip_missing=True)
    running = bricks.running(named, TAGS)
    assert running == set()
    torch.stack(bricks.absent(values, running)).sum().backward()
    assert all(parameter.grad is not None for parameter in collection["loss"].parameters())


def test_losses_that_did_not_run_have_weight_zero() -> None:
    collection = model(loss_weights={})
    bricks = LossBricks(collection)
    named = batch(0, 1, seg={0, 1})
    values = collection(named, tags=TAGS, skip_missing=True)
    weighted = bricks.weighted(values, torch.tensor([2.0, 0.0, 1.0]), torch.tensor(5.0))
    assert {name: float(weight) for name, (_, weight) in weighted.items()} == {
        "cls/loss": 2,
        "seg/loss": 0,
        "det/loss": 1,
        "det/loss_cls": 1,
        "det/loss_box": 1,
        "loss": 5,
    }
    assert weighted["cls/loss"][0] is values["cls/loss"]
