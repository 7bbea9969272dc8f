import pytest
import torch
from torch.nn import functional

from brickyard import ImageClassifier
from brickyard.parts.classification import ClassPrediction, SpatialMaxClassifier, classification_metrics


def test_the_classifier_is_pooling_and_a_linear_layer_with_predictions():
    classifier = ImageClassifier(num_classes=4, n_features=5)
    features = torch.rand(3, 5, 6, 7)
    logits, probabilities, prediction = classifier(features)
    expected = functional.linear(features.mean(dim=(2, 3)), classifier.fc.weight, classifier.fc.bias)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(probabilities, expected.exp() / expected.exp().sum(dim=1, keepdim=True))
    assert torch.equal(prediction, expected.max(dim=1).indices)
    assert prediction.dtype == torch.int64


def test_pooled_features_need_no_pooling():
    classifier = ImageClassifier(num_classes=4, n_features=5, use_average_pooling=False)
    features = torch.rand(3, 5)
    torch.testing.assert_close(
        classifier(features)[0], functional.linear(features, classifier.fc.weight, classifier.fc.bias)
    )


def test_the_classifiers_weights_are_one_linear_layer():
    assert list(ImageClassifier(4, 5).state_dict()) == ["fc.weight", "fc.bias"]


def test_probabilities_sum_to_one_and_agree_with_the_prediction():
    logits = 100 * torch.randn(50, 7)
    probabilities, prediction = ClassPrediction()(logits)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(50))
    assert torch.equal(logits.gather(1, prediction[:, None])[:, 0], logits.amax(dim=1))


def test_the_logit_is_the_highest_score_of_all_cells():
    head = SpatialMaxClassifier(channels=(4, 5, 6), strides=(4, 8, 16), num_classes=3).eval()
    maps = [torch.randn(2, channels, *size) for channels, size in ((4, (16, 20)), (5, (8, 10)), (6, (4, 5)))]
    tower = head.tower(maps[1:])
    assert tower.shape == (2, 64, 8, 10)
    scores = torch.einsum("kc,bchw->bkhw", head.score.weight[:, :, 0, 0], tower) + head.score.bias[:, None, None]
    torch.testing.assert_close(head(maps), scores.flatten(2).max(dim=2).values)


@pytest.mark.parametrize("strides", [(2, 4), (7, 14), (16, 32), (4, 8, 16)], ids=str)
def test_every_weight_is_trained_for_any_strides(strides):
    channels = tuple(range(4, 4 + len(strides)))
    head = SpatialMaxClassifier(channels, strides, num_classes=3)
    maps = [torch.randn(2, c, 112 // s, 112 // s) for c, s in zip(channels, strides, strict=True)]
    head(maps).square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def by_hand(logits, targets, num_classes):
    """Compute accuracy, class-averaged accuracy and macro F1 per class."""
    predicted = logits.argmax(dim=1)
    recall, f1 = [], []
    for label in range(num_classes):
        hits = ((predicted == label) & (targets == label)).sum().item()
        recall.append(hits / (targets == label).sum().item())
        f1.append(2 * hits / ((predicted == label).sum() + (targets == label).sum()).item())
    accuracy = (predicted == targets).float().mean().item()
    return {"Accuracy": accuracy, "MeanAccuracy": sum(recall) / num_classes, "F1": sum(f1) / num_classes}


@pytest.mark.parametrize("num_classes", [3, 5])
def test_metrics_are_those_computed_by_hand(num_classes):
    logits, targets = torch.randn(60, num_classes), torch.arange(60) % num_classes
    values = classification_metrics(num_classes)(logits, targets)
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        by_hand(logits, targets, num_classes)
    )


def test_top_5_accuracy_is_reported_from_6_classes_on():
    logits, targets = torch.randn(40, 10), torch.arange(40) % 10
    metrics = classification_metrics(10)
    ranks = (logits > logits.gather(1, targets[:, None])).sum(dim=1)
    assert metrics(logits, targets)["AccuracyTop5"].item() == pytest.approx((ranks < 5).float().mean().item())
    assert "AccuracyTop5" in classification_metrics(6)
    assert "AccuracyTop5" not in classification_metrics(5)
