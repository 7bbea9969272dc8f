"""CenterNet against the paper's target heatmaps, losses and decoding, written with loops."""

import math

import pytest
import torch

from brickyard.parts.detection.centernet import CenterNet, CenterNetDecode, CenterNetLoss
from brickyard.parts.detection.heatmap import gaussian_radius
from brickyard.parts.detection.points import cell_centers
from brickyard.parts.detection.targets import PadBoxes

K, STRIDE, CELLS = 3, 4, (12, 16)
SIZE = (CELLS[0] * STRIDE, CELLS[1] * STRIDE)
POINTS = cell_centers([torch.zeros(1, 1, *CELLS)], (STRIDE,), SIZE, 1)[0].T.reshape(2, *CELLS)
TARGETS = [
    {"boxes": torch.tensor([[4.0, 6, 40, 44], [30, 10, 61, 37], [8, 8, 12, 13]]), "labels": torch.tensor([0, 0, 2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def iou(left, right):
    width = max(min(left[2], right[2]) - max(left[0], right[0]), 0)
    height = max(min(left[3], right[3]) - max(left[1], right[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (left, right)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize(("width", "height"), [(3, 3), (10, 10), (40, 20), (5, 60), (100, 80)])
def test_a_box_moved_by_the_radius_has_an_iou_of_0_7(width, height):
    def lowest_iou(radius):
        box = (0, 0, width, height)
        moved = [(1, 1, 1, 1), (1, 1, -1, -1), (-1, -1, 1, 1)]
        return min(iou(box, [side + radius * sign for side, sign in zip(box, signs, strict=True)]) for signs in moved)

    radius = gaussian_radius(torch.tensor([width, height], dtype=torch.float32)).item()
    assert lowest_iou(radius) >= 0.7 > lowest_iou(radius + 1)


def reference_loss(heatmap, sizes, offsets):
    """Law and Deng's Gaussians and focal loss, Zhou et al.'s L1 losses, cell by cell."""
    losses, count = [0.0, 0.0, 0.0], sum(len(target["labels"]) for target in TARGETS)
    for index, target in enumerate(TARGETS):
        expected = torch.zeros(K, *CELLS)
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            width, height = box[2] - box[0], box[3] - box[1]
            column, row = int(x // STRIDE), int(y // STRIDE)
            radius = int(gaussian_radius(torch.tensor([width, height]) / STRIDE))
            sigma = (2 * radius + 1) / 6
            for j in range(max(row - radius, 0), min(row + radius + 1, CELLS[0])):
                for i in range(max(column - radius, 0), min(column + radius + 1, CELLS[1])):
                    value = math.exp(-((i - column) ** 2 + (j - row) ** 2) / (2 * sigma**2))
                    expected[label, j, i] = max(expected[label, j, i].item(), value)
            size, offset = sizes[index, :, row, column], offsets[index, :, row, column]
            center = torch.tensor([x - (column + 0.5) * STRIDE, y - (row + 0.5) * STRIDE])
            losses[1] += 0.1 * (size - torch.tensor([width, height])).abs().sum() / STRIDE
            losses[2] += (offset - center).abs().sum() / STRIDE
        probability = heatmap[index].sigmoid()
        positive = (1 - probability) ** 2 * probability.log()
        negative = (1 - expected) ** 4 * probability**2 * (1 - probability).log()
        losses[0] -= torch.where(expected == 1, positive, negative).sum()
    return [loss / count for loss in losses]


def outputs(images=2):
    leaves = [torch.randn(images, channels, *CELLS, requires_grad=True) for channels in (K, 2, 2)]
    return leaves, POINTS.expand(images, -1, -1, -1)


def padded(targets):
    return PadBoxes(K)(targets, torch.zeros(len(targets), 3, *SIZE))


def test_the_loss_equals_the_papers_in_value_and_gradient():
    leaves, points = outputs()
    loss, *parts = CenterNetLoss([STRIDE])(*leaves, points, *padded(TARGETS))
    expected = reference_loss(*leaves)
    torch.testing.assert_close(torch.stack(parts), torch.stack(expected))
    actual, reference = torch.autograd.grad(loss, leaves), torch.autograd.grad(sum(expected), leaves)
    for left, right in zip(actual, reference, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_unlabelled_images_have_no_loss_and_no_gradient():
    leaves, points = outputs()
    loss = CenterNetLoss([STRIDE])(*leaves, points, *padded(TARGETS), torch.tensor([True, False]))[0]
    labelled_only = CenterNetLoss([STRIDE])(*(each[:1] for each in leaves), points[:1], *padded(TARGETS[:1]))[0]
    torch.testing.assert_close(loss, labelled_only)
    assert not torch.autograd.grad(loss, leaves)[0][1].any()


def test_without_labels_the_loss_is_0_and_can_run_backward():
    leaves, points = outputs()
    loss = CenterNetLoss([STRIDE])(*leaves, points, *padded(TARGETS), torch.zeros(2, dtype=torch.bool))[0]
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, leaves))


def test_peaks_are_decoded_by_decreasing_score():
    heatmap = torch.full((1, K, *CELLS), -9.0)
    heatmap[0, 1, 5, 7], heatmap[0, 1, 5, 8], heatmap[0, 0, 5, 8], heatmap[0, 2, 0, 0] = 3.0, 2.0, 1.0, 4.0
    sizes, offsets = torch.zeros(1, 2, *CELLS), torch.zeros(1, 2, *CELLS)
    sizes[:, 0], sizes[:, 1], offsets[:, 0] = 20, 10, 1
    boxes, scores, labels = CenterNetDecode(count=6)(heatmap, sizes, offsets, POINTS[None], torch.zeros(1, 3, *SIZE))
    assert labels[0].tolist() == [2, 1, 0, -1, -1, -1], "(5, 8) of class 1 is next to a higher peak"
    torch.testing.assert_close(scores[0, :3], torch.tensor([4.0, 3.0, 1.0]).sigmoid())
    assert boxes[0, 0].tolist() == [0, 0, 13, 7], "clipped"
    assert boxes[0, 1].tolist() == [21, 17, 41, 27]
    assert not boxes[0, 3:].any()
    assert not scores[0, 3:].any()


def test_a_map_of_fewer_cells_than_detections_is_padded():
    decoded = CenterNetDecode(count=100)(
        torch.zeros(2, 1, 3, 3), torch.ones(2, 2, 3, 3), torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3),
        torch.zeros(2, 3, 12, 12),
    )  # fmt: skip
    assert [tuple(each.shape) for each in decoded] == [(2, 100, 4), (2, 100), (2, 100)]


def test_every_parameter_of_the_head_is_trained():
    head = CenterNet([4, 8, 16], [4, 8, 16], num_classes=K)
    image = torch.zeros(1, 3, 64, 64)
    outputs = head([torch.rand(1, 4, 16, 16), torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)], image)
    assert outputs[0].shape == (1, K, 16, 16)
    assert outputs[3][0, :, 2, 1].tolist() == [6, 10]
    sum(each.sum() for each in outputs).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_background_in_a_box_to_ignore_has_no_loss():
    module, image = CenterNet([8, 16], [4, 8], K, width=8), torch.zeros(1, 3, *SIZE)
    features = [torch.rand(1, 8, SIZE[0] // 4, SIZE[1] // 4), torch.rand(1, 16, SIZE[0] // 8, SIZE[1] // 8)]
    heatmap, sizes, offsets, points = module(features, image)
    heatmap = heatmap.detach().requires_grad_()
    crowd = [SIZE[1] / 2, 0.0, float(SIZE[1]), float(SIZE[0])]
    target = {
        "boxes": torch.tensor([[4.0, 4, 20, 20], crowd]),
        "labels": torch.tensor([0, 1]),
        "ignore": torch.tensor([False, True]),
    }
    total, _, loss_box, _ = CenterNetLoss([4])(heatmap, sizes, offsets, points, *PadBoxes(K)([target], image))
    gradient = torch.autograd.grad(total, heatmap)[0]
    half = heatmap.shape[-1] // 2
    assert not gradient[..., half:].any()
    assert gradient[..., :half].all()
    alone = {"boxes": target["boxes"][:1], "labels": target["labels"][:1]}
    expected = CenterNetLoss([4])(heatmap, sizes, offsets, points, *PadBoxes(K)([alone], image))[2]
    torch.testing.assert_close(loss_box, expected)


def test_class_agnostic_decoding_gives_an_object_one_label():
    heatmap = torch.full((1, 3, 8, 8), -9.0)
    heatmap[0, 0, 2, 2], heatmap[0, 1, 2, 2], heatmap[0, 2, 2, 3], heatmap[0, 2, 6, 6] = 3.0, 2.0, 1.0, 0.5
    zeros, points = torch.full((1, 2, 8, 8), 4.0), torch.rand(1, 2, 8, 8) * 32
    image = torch.zeros(1, 3, 32, 32)
    labels = CenterNetDecode(count=5)(heatmap, zeros, zeros * 0, points, image)[2]
    assert labels.tolist() == [[0, 1, 2, 2, -1]]
    labels = CenterNetDecode(count=5, class_agnostic=True)(heatmap, zeros, zeros * 0, points, image)[2]
    assert labels.tolist() == [[0, 2, -1, -1, -1]]
