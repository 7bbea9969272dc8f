import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from brickyard import create_model, model_info
from brickyard.parts.losses import BinaryCrossEntropy, CrossEntropy, LabelledMetrics, UncertaintyWeighting, WeightedSum


def test_cross_entropy_is_that_of_the_labelled_samples() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    target, labelled = torch.tensor([0, -7, 2, 99]), torch.tensor([True, False, True, False])
    loss = CrossEntropy()(logits, target, labelled)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits[labelled], target[labelled]))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[~labelled].abs().sum() == 0
    assert logits.grad[labelled].abs().sum() > 0


@pytest.mark.parametrize(
    ("loss", "target"), [(CrossEntropy(), torch.zeros(2).long()), (BinaryCrossEntropy(), torch.ones(2, 3))]
)
def test_without_labels_a_loss_is_0_and_can_run_backward(loss: nn.Module, target: torch.Tensor) -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    value = loss(logits, target, torch.zeros(2, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_binary_cross_entropy_equals_torch() -> None:
    logits, target = torch.randn(4, 3), torch.randint(0, 2, (4, 3))
    expected = nn.BCEWithLogitsLoss()(logits, target.float())
    torch.testing.assert_close(BinaryCrossEntropy()(logits, target), expected)
    labelled = torch.tensor([True, False, False, True])
    expected = nn.BCEWithLogitsLoss()(logits[labelled], target[labelled].float())
    torch.testing.assert_close(BinaryCrossEntropy()(logits, target, labelled), expected)


def test_a_weighted_sum_ignores_absent_losses() -> None:
    total = WeightedSum([2.0, 3.0, 4.0])
    assert total(torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0)) == 432
    assert total(torch.tensor(1.0), None, torch.tensor(100.0)) == 402


def test_uncertainty_weighting_starts_at_one_half_and_learns_the_variances() -> None:
    weighting = UncertaintyWeighting(2)
    losses = torch.tensor(0.1), torch.tensor(5.0)
    torch.testing.assert_close(weighting(*losses), torch.tensor(2.55))
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weighting(*losses).backward()
        optimizer.step()
    torch.testing.assert_close(weighting.log_variance.exp(), torch.stack(losses), rtol=0.01, atol=0.0)


def test_metrics_ignore_unlabelled_samples_and_are_not_updated_without_labels() -> None:
    metrics = LabelledMetrics({"Accuracy": MulticlassAccuracy(3, average="micro")})
    preds, target = torch.eye(3), torch.tensor([0, 1, 0])
    metrics.update(preds, target, torch.zeros(3, dtype=torch.bool))
    assert not metrics["Accuracy"].update_called
    metrics.update(preds, target, torch.tensor([True, False, True]))
    assert metrics.compute()["Accuracy"] == 0.5


@pytest.mark.parametrize(
    ("head", "formula"),
    [
        ("cls", "cross-entropy"),
        ("cls-multilabel", "binary cross-entropy, mean over classes"),
        ("seg", "cross-entropy + 1.0 * Dice"),
        ("det-fcos", "focal loss of classes + GIoU loss of boxes + binary cross-entropy of centerness"),
        ("det-retinanet", "focal loss of classes + L1 loss of boxes"),
        ("det-ssdlite", "cross-entropy of classes, 3 negatives per positive + smooth L1 loss of boxes"),
        ("det-centernet", "focal loss of the heatmap + 0.1 * L1 loss of sizes + L1 loss of offsets"),
        ("kpt", "cross-entropy over the cells of each heatmap"),
        ("depth", "mean(d^2) - 0.5 * mean(d)^2, d the difference of log depths"),
        ("emb", "supervised contrastive loss, temperature 0.1"),
        ("fomo", "focal loss of the heatmap of centres"),
        ("anomaly", "hinge loss of normal features against noisy ones"),
        ("ocr", "CTC loss per character"),
    ],
)
def test_the_default_loss_of_each_head_is_stated(head: str, formula: str) -> None:
    task = head.partition("-")[0]
    assert model_info(f"test_resnet_{head}").losses == {task: formula}
    brick = create_model(f"test_resnet_{head}")[f"{task}/loss"]
    assert f"({formula})" in repr(brick)
    assert formula in repr(brick.model)
