"""SimpleNet's discriminator, noise, loss and decoding."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from brickyard.parts.anomaly import AnomalyDecode, AnomalyLoss, FeatureNoise, SimpleNet, anomaly_levels

CHANNELS, STRIDES = [4, 6, 8, 10], [4, 8, 16, 32]


def maps(batch=3, size=64):
    torch.manual_seed(0)
    sides = [size // stride for stride in STRIDES]
    return tuple(torch.randn(batch, c, side, side) for c, side in zip(CHANNELS, sides, strict=True))


@pytest.mark.parametrize(
    ("strides", "levels"),
    [
        ([2, 4, 8, 16, 32], [2, 3]),
        ([4, 8, 8, 16, 16, 32], [2, 4]),  # the deepest of each stride
        ([16] * 12, [5, 11]),  # a ViT
        ([14] * 2, [0, 1]),
        ([32], [0]),
        ([2, 4], [1]),
        ([7, 14, 28], [0, 1]),
    ],
)
def test_maps_of_stride_8_and_16_are_read(strides, levels):
    assert anomaly_levels(strides) == levels


def test_features_are_averaged_resized_and_standardised():
    head, features = SimpleNet(CHANNELS, STRIDES).eval(), maps()
    head.standardize.running_mean.copy_(torch.randn(14))
    head.standardize.running_var.copy_(torch.rand(14) + 0.5)
    fine, coarse = features[1], features[2]
    cells = torch.zeros(3, 14, 8, 8)
    for y, x in np.ndindex(8, 8):
        cells[:, :6, y, x] = fine[:, :, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean(dim=(2, 3))
    smooth = torch.zeros_like(coarse)
    for y, x in np.ndindex(4, 4):
        smooth[:, :, y, x] = coarse[:, :, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean(dim=(2, 3))
    cells[:, 6:] = functional.interpolate(smooth, scale_factor=2, mode="bilinear")
    standardized = (cells - head.standardize.running_mean[:, None, None]) / (
        head.standardize.running_var[:, None, None] + head.standardize.eps
    ).sqrt()
    logits = head(features)
    assert logits.shape == (3, 1, 8, 8)
    torch.testing.assert_close(logits, head.classifier(head.hidden(standardized)), rtol=1e-4, atol=1e-4)
    noise = torch.randn(3, 14, 8, 8)
    both = head(features, noise)
    torch.testing.assert_close(both[:, :1], logits)
    noisy = head.classifier(head.hidden(standardized + noise))
    torch.testing.assert_close(both[:, 1:], noisy, rtol=1e-4, atol=1e-4)


def test_the_backbone_gets_no_gradient():
    features = tuple(map_.requires_grad_() for map_ in maps())
    head = SimpleNet(CHANNELS, STRIDES)
    head(features, torch.randn(3, 14, 8, 8)).sum().backward()
    assert all(map_.grad is None for map_ in features)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_noise_in_training_is_normal_and_follows_torchs_seed():
    noise, features = FeatureNoise([1, 2], sigma=0.5), maps(batch=20)
    torch.manual_seed(3)
    first, second = noise(features), noise(features)
    torch.manual_seed(3)
    assert torch.equal(noise(features), first)
    assert first.shape == (20, 14, 8, 8)
    assert not torch.equal(first, second)
    assert stats.kstest(first.flatten().numpy() / 0.5, "norm").pvalue > 1e-3


def test_noise_in_evaluation_is_normal_fixed_and_draws_no_random_number():
    noise, features = FeatureNoise([1, 2], sigma=1.0).eval(), maps()
    state = torch.get_rng_state()
    first = noise(features)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, FeatureNoise([1, 2], sigma=1.0).eval()(maps(batch=3)))
    assert torch.equal(first[0], first[2]), "the loss of an image does not depend on its row"
    wide = FeatureNoise([0], sigma=1.0).eval()([torch.zeros(1, 200, 30, 30)])[0]
    assert stats.kstest(wide.flatten().numpy(), "norm").pvalue > 1e-3
    for shifted in (wide[1:, :, :], wide[:, 1:, :], wide[:, :, 1:]):
        other = wide[: shifted.shape[0], : shifted.shape[1], : shifted.shape[2]]
        correlation = np.corrcoef(shifted.flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(correlation) < 0.02, "neighbours are independent"


def test_the_loss_is_the_papers_hinge_and_anomalous_images_have_none():
    logits, target = torch.randn(4, 2, 3, 5, requires_grad=True), torch.tensor([0, 0, 1, 0])
    labelled = torch.tensor([True, True, True, False])
    expected = 0.0
    for image in (0, 1):
        clean, noisy = logits[image].detach().numpy()
        expected += np.maximum(0, 0.5 - clean).mean() + np.maximum(0, noisy + 0.5).mean()
    loss = AnomalyLoss()(logits, target, labelled)
    assert loss.item() == pytest.approx(expected / 3, rel=1e-5)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert gradient[:2].flatten(1).any(dim=1).all()
    assert not gradient[2:].any()


def test_the_map_has_the_size_of_the_image_and_the_score_is_its_maximum():
    logits = torch.randn(2, 2, 4, 6)
    map_, score = AnomalyDecode()(logits, torch.zeros(2, 3, 32, 48))
    expected = functional.interpolate(torch.sigmoid(-4 * logits[:, :1]), size=(32, 48), mode="bilinear")[:, 0]
    torch.testing.assert_close(map_, expected)
    torch.testing.assert_close(score, expected.amax(dim=(1, 2)))
    assert AnomalyDecode()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 8, 8))[1].item() == 0.5
