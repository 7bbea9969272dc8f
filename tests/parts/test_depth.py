import numpy as np
import pytest
import torch
from torchmetrics.functional import mean_absolute_percentage_error, mean_squared_error

from brickyard.parts.depth import DepthErrors, DepthFromLog, ScaleInvariantLoss, depth_metrics


@pytest.fixture
def depths():
    """Create predictions (B, 1, H, W) and targets (B, H, W) with invalid pixels."""
    rng = np.random.default_rng(0)
    target = rng.uniform(0.5, 9, (3, 6, 7)).astype(np.float32)
    prediction = (target * rng.lognormal(0.1, 0.3, target.shape)).astype(np.float32)
    target[0, :2] = [[0] * 7, [np.nan] * 7]
    target[1] = -1
    return torch.from_numpy(prediction)[:, None], torch.from_numpy(target)


@pytest.mark.parametrize("scale_invariance", [0.0, 0.5, 1.0])
def test_the_loss_equals_the_papers_per_image(depths, scale_invariance):
    prediction, target = depths
    terms = []
    for image in (0, 2):  # the other image has no valid pixel
        valid = (target[image] > 0).numpy()
        d = np.log(prediction[image, 0].numpy()[valid]) - np.log(target[image].numpy()[valid])
        terms.append((d**2).sum() / d.size - scale_invariance * d.sum() ** 2 / d.size**2)
    assert ScaleInvariantLoss(scale_invariance)(prediction.log(), target).item() == pytest.approx(
        np.mean(terms), rel=1e-4
    )


def test_with_full_scale_invariance_a_factor_does_not_change_the_loss(depths):
    prediction, target = depths
    loss = ScaleInvariantLoss(1.0)
    torch.testing.assert_close(loss((prediction * 7).log(), target), loss(prediction.log(), target))
    assert ScaleInvariantLoss(0.0)((prediction * 7).log(), target) > 2 * loss(prediction.log(), target)


def test_gradients_are_finite_for_any_invalid_pixels(depths):
    prediction, target = depths
    logs = prediction.log().requires_grad_()
    target[2, 0] = torch.inf
    ScaleInvariantLoss()(logs, target).backward()
    assert logs.grad.isfinite().all()
    valid = target.isfinite() & (target > 0)
    assert not logs.grad[:, 0][~valid].any()
    assert logs.grad[:, 0][valid].all()


def test_the_metrics_equal_torchmetrics_and_eigens(depths):
    prediction, target = depths
    metric = depth_metrics()
    metric.update(prediction[:1], target[:1])
    metric.update(prediction[1:], target[1:])
    summary = metric.compute()
    valid = target > 0
    predicted, expected = prediction[:, 0][valid], target[valid]
    torch.testing.assert_close(summary["RMSE"], mean_squared_error(predicted, expected, squared=False))
    torch.testing.assert_close(summary["AbsRel"], mean_absolute_percentage_error(predicted, expected))
    ratio = np.maximum(predicted.numpy() / expected.numpy(), expected.numpy() / predicted.numpy())
    for power in (1, 2, 3):
        assert summary[f"Delta{power}"].item() == pytest.approx((ratio < 1.25**power).mean())
    assert summary["Delta1"] < summary["Delta3"]


def test_without_valid_pixels_no_value_is_reported():
    metric = DepthErrors()
    metric.update(torch.ones(2, 1, 3, 3), torch.zeros(2, 3, 3))
    assert metric.compute() == {}


def test_depth_is_positive_and_finite_for_any_logarithm():
    depth = DepthFromLog()(torch.tensor([-1e4, -1.0, 0.0, 2.0, 1e4]))
    torch.testing.assert_close(depth[1:4], torch.tensor([-1.0, 0.0, 2.0]).exp())
    assert depth.isfinite().all()
    assert (depth > 0).all()
