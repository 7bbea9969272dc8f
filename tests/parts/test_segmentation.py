import pytest
import torch
from torch.nn import functional
from torchmetrics.classification import MulticlassConfusionMatrix

from brickyard import BrickInputError
from brickyard.parts.segmentation import ClassMap, ResizeLogits, SegmentationLoss, dice_loss, segmentation_metrics


@pytest.mark.parametrize("size", [(97, 131), (3, 200), (8, 8), (5, 4)])
def test_logits_are_resized_to_images_of_any_size_and_dtype(size):
    coarse, image = torch.randn(2, 3, 5, 4), torch.zeros(2, 3, *size, dtype=torch.uint8)
    expected = functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    assert torch.equal(ResizeLogits()(coarse, image), expected)


def test_the_predicted_class_has_the_largest_logit():
    logits = torch.randn(2, 5, 6, 7)
    prediction = ClassMap()(logits)
    assert prediction.dtype == torch.int64
    assert torch.equal(logits.gather(1, prediction[:, None])[:, 0], logits.amax(dim=1))


@pytest.fixture
def scored():
    logits = torch.randn(3, 4, 5, 6, requires_grad=True)
    target = torch.randint(0, 4, (3, 5, 6))
    target[0, :2] = 255
    return logits, target


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def cross_entropy_by_hand(logits, target):
    """Compute the cross-entropy pixel by pixel."""
    losses = []
    for row, y, x in (target != 255).nonzero().tolist():
        scores = logits[row, :, y, x]
        losses.append(scores.exp().sum().log() - scores[target[row, y, x]])
    return torch.stack(losses).mean()


def test_the_loss_is_the_mean_over_labelled_pixels(scored):
    loss, expected = SegmentationLoss()(*scored), cross_entropy_by_hand(*scored)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(loss, functional.cross_entropy(*scored, ignore_index=255))
    torch.testing.assert_close(gradient(loss, scored[0]), gradient(expected, scored[0]))
    assert not gradient(SegmentationLoss()(*scored), scored[0])[0, :, :2].any()


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_unlabelled_samples_do_not_change_the_loss(scored, dice):
    logits, target = scored
    loss = SegmentationLoss(dice)
    target[1] = -7  # the target of an unlabelled sample may have any value
    partial = loss(logits, target, torch.tensor([True, False, True]))
    labelled_only = loss(logits[[0, 2]], target[[0, 2]])
    torch.testing.assert_close(partial, labelled_only)
    torch.testing.assert_close(gradient(partial, logits), gradient(labelled_only, logits))
    assert not gradient(loss(logits, target, torch.tensor([True, False, True])), logits)[1].any()


@pytest.mark.parametrize("dice", [0.0, 0.5])
@pytest.mark.parametrize("how", ["ignored", "unlabelled"])
def test_without_labels_the_loss_and_its_gradient_are_0(scored, dice, how):
    logits, target = scored
    labelled = None
    if how == "ignored":
        target = torch.full_like(target, 255)
    else:
        labelled = torch.zeros(3, dtype=torch.bool)
    loss = SegmentationLoss(dice)(logits, target, labelled)
    assert loss.item() == 0
    assert torch.equal(gradient(loss, logits), torch.zeros_like(logits))


def test_dice_by_hand():
    logits = torch.tensor([[[[0.0, 0.0]], [[0.0, 0.0]]]])  # one image, two classes, two pixels with probability 0.5
    # Class 0: overlap 1/2, predicted area 1, target area 1 -> 1 - 2 * 0.5 / 2. Class 1 is the same.
    assert dice_loss(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx(0.5)
    # Class 0: overlap 1/2 of one pixel; the other pixel is ignored: 1 - 2 * 0.5 / 1.5.
    assert dice_loss(logits, torch.tensor([[[0, 255]]])).item() == pytest.approx(1 / 3)
    confident = torch.tensor([[[[50.0, -50.0]], [[-50.0, 50.0]]]])
    assert dice_loss(confident, torch.tensor([[[0, 1]]])).item() == pytest.approx(0)
    assert dice_loss(confident, torch.tensor([[[1, 0]]])).item() == pytest.approx(1)


def test_dice_is_added_with_its_weight(scored):
    expected = SegmentationLoss()(*scored) + 0.5 * dice_loss(*scored)
    torch.testing.assert_close(SegmentationLoss(dice=0.5)(*scored), expected)


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_the_loss_of_half_precision_logits_is_computed_in_float(scored, dice):
    logits, target = scored[0].detach().bfloat16(), scored[1]
    loss = SegmentationLoss(dice)(logits, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, SegmentationLoss(dice)(logits.float(), target))


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_the_loss_is_one_graph(scored, dice):
    loss, labelled = SegmentationLoss(dice), torch.tensor([True, False, True])
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*scored, labelled), loss(*scored, labelled))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(
        BrickInputError, match=r"SegmentationLoss: expected a target \(B, H, W\) = \(2, 4, 5\), found \(2, 5, 4\)"
    ):
        SegmentationLoss()(torch.randn(2, 3, 4, 5), torch.zeros(2, 5, 4, dtype=torch.int64))


def by_hand(prediction, target, labels):
    """Compute IoU per class, their mean over the classes in predictions or targets, and pixel accuracy."""
    prediction, target = prediction[target != 255], target[target != 255]
    iou = {}
    for index, label in enumerate(labels):
        both = ((prediction == index) & (target == index)).sum().item()
        either = ((prediction == index) | (target == index)).sum().item()
        iou[f"IoU/{label}"] = both / either if either else float("nan")
    present = [value for value in iou.values() if value == value]  # noqa: PLR0124 - nan is not itself
    return {
        "MeanIoU": sum(present) / len(present),
        **iou,
        "PixelAccuracy": (prediction == target).float().mean().item(),
    }


def as_numbers(computed):
    return {name: value.item() for name, value in computed.items()}


@pytest.fixture
def maps():
    prediction, target = torch.randint(0, 3, (4, 9, 8)), torch.randint(0, 3, (4, 9, 8))
    target[1, :5] = 255
    return prediction, target


LABELS = ["road", "sky", "tree", "nowhere"]


def test_metrics_are_those_computed_by_hand(maps):
    metrics = segmentation_metrics(LABELS)
    for half in (slice(0, 2), slice(2, 4)):
        metrics.update(maps[0][half], maps[1][half])
    expected = by_hand(*maps, LABELS)
    assert as_numbers(metrics.compute()) == pytest.approx(expected, nan_ok=True)
    metrics.reset()
    metrics.update(*maps)
    assert as_numbers(metrics.compute()) == pytest.approx(expected, nan_ok=True)


def test_metrics_ignore_unlabelled_samples(maps):
    prediction, target = maps
    metrics = segmentation_metrics(LABELS)
    metrics.update(prediction, target, torch.tensor([True, False, False, True]))
    metrics.update(prediction, target, torch.zeros(4, dtype=torch.bool))
    expected = by_hand(prediction[[0, 3]], target[[0, 3]], LABELS)
    assert as_numbers(metrics.compute()) == pytest.approx(expected, nan_ok=True)


def test_the_confusion_matrix_is_computed_once_also_in_a_clone(maps, monkeypatch):
    calls = []
    update = MulticlassConfusionMatrix.update
    monkeypatch.setattr(MulticlassConfusionMatrix, "update", lambda *args: (calls.append(1), update(*args))[1])
    metrics = segmentation_metrics(LABELS).clone()
    for _ in range(3):
        metrics.update(*maps)
    assert len(calls) == 3
