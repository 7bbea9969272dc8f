import numpy as np
import pytest
import torch
from torch.nn import functional

from brickyard.parts.keypoints import (
    DeconvolutionHeatmaps,
    KeypointDecode,
    KeypointErrors,
    KeypointLoss,
    keypoint_metrics,
)

WIDTH, HEIGHT = 60, 40  # pixels
COLUMNS, ROWS = 15, 10  # cells of 4 pixels
IMAGE = torch.zeros(1, 3, HEIGHT, WIDTH)


def cells_around(x, y):
    """Compute the bilinear weights of the cells around a point."""
    cells = np.zeros((ROWS, COLUMNS))
    column, row = x * COLUMNS / WIDTH - 0.5, y * ROWS / HEIGHT - 0.5
    for i in range(ROWS):
        for j in range(COLUMNS):
            cells[i, j] = max(0, 1 - abs(column - j)) * max(0, 1 - abs(row - i))
    return cells


@pytest.mark.parametrize(("x", "y"), [(2, 2), (3.3, 17.9), (30, 20), (57.5, 37.5), (31.9, 2.1)])
def test_a_point_spread_over_four_cells_is_decoded_with_sub_pixel_accuracy(x, y):
    heatmaps = torch.from_numpy(cells_around(x, y)).add(1e-9).log()[None, None]
    keypoints, scores = KeypointDecode()(heatmaps, IMAGE)
    torch.testing.assert_close(keypoints[0, 0], torch.tensor([float(x), float(y)]), atol=1e-3, rtol=0)
    assert scores.item() == pytest.approx(1, abs=1e-4)


def test_the_score_is_the_probability_around_the_peak():
    heatmaps = torch.randn(2, 3, ROWS, COLUMNS)
    _, scores = KeypointDecode()(heatmaps, IMAGE)
    for row in range(2):
        for point in range(3):
            cells = heatmaps[row, point].flatten().softmax(0).view(ROWS, COLUMNS)
            i, j = divmod(int(cells.argmax()), COLUMNS)
            expected = cells[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].sum()
            torch.testing.assert_close(scores[row, point], expected)


def test_the_loss_is_the_cross_entropy_with_the_four_cells_around_the_point():
    torch.manual_seed(0)
    heatmaps = torch.randn(2, 3, ROWS, COLUMNS)
    points = torch.rand(2, 3, 2) * torch.tensor([WIDTH - 4, HEIGHT - 4]) + 2
    target = torch.cat((points, torch.tensor([[2.0, 0, 1], [1, 2, 0]])[..., None]), dim=2)
    terms = [
        functional.cross_entropy(
            heatmaps[row, point].flatten()[None],
            torch.from_numpy(cells_around(*points[row, point].tolist())).float().flatten()[None],
        )
        for row, point in ((0, 0), (0, 2), (1, 0), (1, 1))
    ]
    torch.testing.assert_close(KeypointLoss()(heatmaps, IMAGE, target), torch.stack(terms).mean())


def test_points_outside_the_image_are_ignored_and_points_at_its_edge_are_not():
    heatmaps = torch.randn(1, 1, ROWS, COLUMNS)
    outside = [[-0.1, 5.0, 2.0]], [[WIDTH + 0.1, 5.0, 2.0]], [[5.0, 1e30, 2.0]], [[torch.nan, 5.0, 2.0]]
    for point in outside:
        assert KeypointLoss()(heatmaps, IMAGE, torch.tensor([point])) == 0
    corner = KeypointLoss()(heatmaps, IMAGE, torch.tensor([[[float(WIDTH), float(HEIGHT), 2.0]]]))
    torch.testing.assert_close(corner, -heatmaps.flatten().log_softmax(0)[-1])


def test_pck_and_pixel_error_are_those_computed_by_hand():
    rng = np.random.default_rng(0)
    predictions = rng.random((6, 5, 2), dtype=np.float32) * 10
    targets = np.concatenate((predictions + rng.normal(size=(6, 5, 2)) * 0.7, rng.integers(0, 3, (6, 5, 1))), axis=2)
    targets[3, :, 2] = [2, 0, 0, 0, 0]  # the box of one point has no extent
    targets[4, :, 2] = 0
    metric = KeypointErrors()
    for rows in (slice(0, 2), slice(2, 6)):
        metric.update(torch.from_numpy(predictions[rows]), torch.from_numpy(targets[rows]).float())
    correct, compared, errors = {0.1: 0, 0.2: 0}, 0, []
    for points, labels in zip(predictions, targets, strict=True):
        labelled = labels[:, 2] > 0
        distances = np.hypot(*(points - labels[:, :2])[labelled].T)
        errors += distances.tolist()
        side = np.ptp(labels[labelled, :2], axis=0).max() if labelled.any() else 0
        if side > 0:
            compared += labelled.sum()
            for threshold in correct:
                correct[threshold] += (distances <= threshold * side).sum()
    summary = {name: value.item() for name, value in metric.compute().items()}
    assert 0 < correct[0.1] < correct[0.2] < compared
    assert summary == pytest.approx(
        {
            "PCK@0.1": correct[0.1] / compared,
            "PCK@0.2": correct[0.2] / compared,
            "PixelError": np.mean(errors),
        },
        abs=1e-5,
    )


def test_without_labelled_keypoints_no_value_is_reported():
    metric = KeypointErrors()
    metric.update(torch.rand(2, 3, 2), torch.zeros(2, 3, 3))
    assert metric.compute() == {}
    one = KeypointErrors()
    one.update(torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0, 2.0]]]))
    assert one.compute() == {"PixelError": 5.0}


def test_two_metrics_do_not_share_states():
    first, second = keypoint_metrics(), keypoint_metrics()
    first.update(torch.zeros(1, 2, 2), torch.tensor([[[0.0, 0, 2], [0, 9, 2]]]))
    second.update(torch.zeros(1, 2, 2), torch.tensor([[[9.0, 0, 2], [0, 9, 2]]]))
    assert first.compute()["PCK@0.1"] == 0.5
    assert second.compute()["PCK@0.1"] == 0


@pytest.mark.parametrize(("stride", "factor"), [(32, 8), (16, 4), (14, 4), (8, 2), (4, 2), (64, 8)])
def test_deconvolutions_upsample_to_a_stride_of_about_4(stride, factor):
    head = DeconvolutionHeatmaps(6, stride, num_classes=3, width=8)
    assert head(torch.rand(2, 6, 5, 7)).shape == (2, 3, 5 * factor, 7 * factor)
