import math

import pytest
import torch
from torch.nn.functional import normalize
from torchmetrics.functional.retrieval import retrieval_hit_rate

from brickyard.parts.embedding import RecallAtK, SupervisedContrastive, UnitVector


def supervised_contrastive(vectors, classes, temperature):
    """Compute equation 2 of the paper term by term."""
    terms = []
    for i in range(len(vectors)):
        others = [a for a in range(len(vectors)) if a != i]
        positives = [p for p in others if classes[p] == classes[i]]
        total = sum(math.exp(float(vectors[i] @ vectors[a]) / temperature) for a in others)
        if positives:
            logs = [math.log(math.exp(float(vectors[i] @ vectors[p]) / temperature) / total) for p in positives]
            terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


@pytest.fixture
def vectors():
    torch.manual_seed(0)
    return normalize(torch.randn(9, 5), dim=1)


CLASSES = torch.tensor([3, 3, 7, 7, 7, 9, 3, -1, -1])  # 9 occurs once


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_equals_the_papers(vectors, temperature):
    loss = SupervisedContrastive(temperature)(vectors, CLASSES)
    assert loss.item() == pytest.approx(supervised_contrastive(vectors, CLASSES, temperature), rel=1e-4)


def test_unlabelled_samples_are_neither_anchors_nor_compared_with(vectors):
    labelled = torch.tensor([True, True, True, False, True, True, True, False, False])
    vectors[3] = torch.nan
    vectors.requires_grad_()
    loss = SupervisedContrastive()(vectors, CLASSES, labelled)
    expected = supervised_contrastive(vectors[labelled].detach(), CLASSES[labelled], 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert vectors.grad.isfinite().all()
    assert not vectors.grad[~labelled].any()


@pytest.mark.parametrize("classes", [[0], [0, 1, 2]])
def test_without_positives_the_loss_and_its_gradient_are_0(classes):
    vectors = normalize(torch.randn(len(classes), 4), dim=1).requires_grad_()
    loss = SupervisedContrastive()(vectors, torch.tensor(classes))
    loss.backward()
    assert loss.item() == 0
    assert not vectors.grad.any()


@pytest.mark.parametrize("chunk", [2, 1024])
def test_recall_is_the_mean_of_torchmetrics_hit_rate(vectors, chunk, monkeypatch):
    monkeypatch.setattr("brickyard.parts.embedding._CHUNK", chunk)
    metric = RecallAtK()
    metric.update(vectors[:4], CLASSES[:4])
    metric.update(vectors[4:], CLASSES[4:])
    for k in (1, 5):
        hits = []
        for i in range(9):
            others = torch.arange(9) != i
            relevant = CLASSES[others] == CLASSES[i]
            if relevant.any():
                hits.append(retrieval_hit_rate(vectors[others] @ vectors[i], relevant, top_k=k))
        assert len(hits) == 8
        torch.testing.assert_close(metric.compute()[f"Recall@{k}"], torch.stack(hits).mean())


@pytest.mark.parametrize("classes", [[0], [0, 1, 2]])
def test_without_queries_no_value_is_reported(classes):
    metric = RecallAtK()
    metric.update(torch.eye(3)[: len(classes)], torch.tensor(classes))
    assert metric.compute() == {}


def test_k_may_exceed_the_number_of_other_samples():
    metric = RecallAtK()
    metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))
    assert metric.compute() == {
        "Recall@1": 0.5,
        "Recall@5": 1.0,
    }  # the second sample has a tie, resolved to the first sample


def test_a_hidden_layer_is_optional():
    assert [tuple(weight.shape) for weight in UnitVector(6, 3).parameters()] == [(3, 6), (3,)]
    shapes = [tuple(weight.shape) for weight in UnitVector(6, 3, hidden=4).parameters()]
    assert shapes == [(4, 6), (4,), (3, 4), (3,)]
    assert torch.isfinite(UnitVector(6, 3)(torch.zeros(2, 6))).all()
