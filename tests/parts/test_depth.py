import numpy as np
import pytest
import torch
from torchmetrics.functional import mean_absolute_percentage_error, mean_squared_error

from brickyard.parts.depth import DepthErrors, DepthFromLog, ScaleInvariantLoss, depth_metrics


@pytest.fixture
def depths():
    """Found (B, 1, H, W) and true (B, H, W), some of it unknown."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9, (3, 6, 7)).astype(np.float32)
    found = (truth * rng.lognormal(0.1, 0.3, truth.shape)).astype(np.float32)
    truth[0, :2] = [[0] * 7, [np.nan] * 7]
    truth[1] = -1
    return torch.from_numpy(found)[:, None], torch.from_numpy(truth)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_the_loss_is_the_paper_s_for_each_picture(depths, part):
    found, truth = depths
    terms = []
    for picture in (0, 2):  # the other has no known pixel
        known = (truth[picture] > 0).numpy()
        d = np.log(found[picture, 0].numpy()[known]) - np.log(truth[picture].numpy()[known])
        terms.append((d**2).sum() / d.size - part * d.sum() ** 2 / d.size**2)
    assert ScaleInvariantLoss(part)(found.log(), truth).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_with_full_invariance_a_factor_costs_nothing(depths):
    found, truth = depths
    loss = ScaleInvariantLoss(1.0)
    torch.testing.assert_close(loss((found * 7).log(), truth), loss(found.log(), truth))
    assert ScaleInvariantLoss(0.0)((found * 7).log(), truth) > 2 * loss(found.log(), truth)


def test_gradients_are_finite_whatever_stands_in_unknown_pixels(depths):
    found, truth = depths
    logs = found.log().requires_grad_()
    truth[2, 0] = torch.inf
    ScaleInvariantLoss()(logs, truth).backward()
    assert logs.grad.isfinite().all()
    known = truth.isfinite() & (truth > 0)
    assert not logs.grad[:, 0][~known].any()
    assert logs.grad[:, 0][known].all()


def test_the_metrics_are_torchmetrics_own_and_eigen_s(depths):
    found, truth = depths
    metric = depth_metrics()
    metric.update(found[:1], truth[:1])
    metric.update(found[1:], truth[1:])
    summary = metric.compute()
    known = truth > 0
    ours, theirs = found[:, 0][known], truth[known]
    torch.testing.assert_close(summary["RMSE"], mean_squared_error(ours, theirs, squared=False))
    torch.testing.assert_close(summary["AbsRel"], mean_absolute_percentage_error(ours, theirs))
    ratio = np.maximum(ours.numpy() / theirs.numpy(), theirs.numpy() / ours.numpy())
    for power in (1, 2, 3):
        assert summary[f"Delta{power}"].item() == pytest.approx((ratio < 1.25**power).mean())
    assert summary["Delta1"] < summary["Delta3"]


def test_nothing_is_reported_where_no_depth_is_known():
    metric = DepthErrors()
    metric.update(torch.ones(2, 1, 3, 3), torch.zeros(2, 3, 3))
    assert metric.compute() == {}


def test_depth_is_above_zero_and_finite_for_any_logarithm():
    depth = DepthFromLog()(torch.tensor([-1e4, -1.0, 0.0, 2.0, 1e4]))
    torch.testing.assert_close(depth[1:4], torch.tensor([-1.0, 0.0, 2.0]).exp())
    assert depth.isfinite().all()
    assert (depth > 0).all()
