"""The decoder against NumPy, object by object."""

import numpy as np
import pytest
import torch

from brickyard.parts.instances.decode import InstanceDecode, in_boxes, points_in_boxes

SIZE, CELLS = (40, 60), (10, 15)
K, J, C, P = 3, 2, 5, 30


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def outputs():
    torch.manual_seed(0)
    corner = torch.rand(P, 2) * torch.tensor([52.0, 32.0])
    return {
        "logits": torch.randn(2, P, K) * 2,
        "regression": torch.rand(2, P, 4) * 2,
        "centerness": torch.randn(2, P, 1),
        "anchors": torch.cat([corner, corner + 8], dim=1).expand(2, -1, -1),
        "coefficients": torch.randn(2, P, C).tanh(),
        "prototypes": torch.randn(2, C, *CELLS).relu(),
        "points": torch.randn(2, P, J, 3) * 0.5,
    }


def objects_of(outputs, image, threshold, iou_threshold):
    """The objects of an image by the definition: scores, greedy suppression, linear combination, crop."""
    values = {name: value[image].numpy().astype(np.float64) for name, value in outputs.items()}
    scores = np.sqrt(sigmoid(values["logits"]) * sigmoid(values["centerness"]))
    center = (values["anchors"][:, :2] + values["anchors"][:, 2:]) / 2
    raw = np.concatenate([center - values["regression"][:, :2] * 8, center + values["regression"][:, 2:] * 8], axis=1)
    boxes = np.clip(raw, 0, [SIZE[1], SIZE[0]] * 2)
    kept = []
    for flat in np.argsort(-scores, axis=None):
        point, label = np.unravel_index(flat, scores.shape)
        rivals = [boxes[p] for p, other in kept if other == label]
        if scores[point, label] > threshold and not any(iou(boxes[point], rival) > iou_threshold for rival in rivals):
            kept.append((point, label))
    found = []
    for point, label in kept:
        x1, y1, x2, y2 = boxes[point]
        mask = sigmoid(sum(c * p for c, p in zip(values["coefficients"][point], values["prototypes"], strict=True)))
        for row, column in np.ndindex(CELLS):
            x, y = (column + 0.5) * 4, (row + 0.5) * 4
            if not (x1 - 2 < x < x2 + 2 and y1 - 2 < y < y2 + 2):
                mask[row, column] = 0
        left, top, right, bottom = raw[point]
        x, y, visible = values["points"][point].T
        points = [(left + right) / 2 + x * (right - left), (top + bottom) / 2 + y * (bottom - top), sigmoid(visible)]
        found.append((scores[point, label], label, boxes[point], mask, np.stack(points, axis=1)))
    return found


def iou(a, b):
    common = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def test_objects_are_those_of_the_definition(outputs):
    decode = InstanceDecode(score_threshold=0.4, iou_threshold=0.3, count=60)
    boxes, scores, labels, masks, keypoints = decode(**outputs, image=torch.zeros(2, 3, *SIZE))
    assert masks.shape == (2, 60, *CELLS)
    assert keypoints.shape == (2, 60, J, 3)
    for image in range(2):
        expected = objects_of(outputs, image, 0.4, 0.3)
        assert 5 < len(expected) < 60
        assert (labels[image] >= 0).sum() == len(expected)
        for row, (score, label, box, mask, points) in enumerate(expected):
            assert scores[image, row].item() == pytest.approx(score, abs=1e-5)
            assert labels[image, row] == label
            np.testing.assert_allclose(boxes[image, row], box, atol=1e-4)
            np.testing.assert_allclose(masks[image, row], mask, atol=1e-5)
            np.testing.assert_allclose(keypoints[image, row], points, atol=1e-4)
        for padded in (masks, keypoints):
            assert not padded[image, len(expected) :].any()


@pytest.mark.parametrize(("left_out", "count"), [(("points",), 4), (("coefficients", "prototypes"), 4)])
def test_masks_and_key_points_are_decoded_alone_too(outputs, left_out, count):
    image = torch.zeros(2, 3, *SIZE)
    everything = InstanceDecode()(**outputs, image=image)
    part = InstanceDecode()(**{name: outputs[name] for name in outputs.keys() - {*left_out}}, image=image)
    assert len(part) == count
    assert torch.equal(part[3], everything[3 if "points" in left_out else 4])


def test_half_precision_is_decoded_in_float32(outputs):
    half = {name: value.bfloat16() for name, value in outputs.items()}
    assert {each.dtype for each in InstanceDecode()(**half, image=torch.zeros(2, 3, *SIZE))} == {
        torch.float32,
        torch.int64,
    }


def test_cells_are_inside_up_to_half_a_cell_beyond_the_box():
    boxes = torch.tensor([[[0.0, 0, 60, 40], [7.9, 4, 12, 8.1], [0, 0, 0, 0]]])
    inside = in_boxes(boxes, SIZE, CELLS)
    assert inside.shape == (1, 3, *CELLS)
    assert inside[0, 0].all()
    # Centres of columns are at 2, 6, 10, 14, ..., and those from 5.9 to 14 count; of rows, those from 2 to 10.1.
    assert inside[0, 1].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_points_are_relative_to_the_centre_of_a_box():
    relative = torch.tensor([[[0.0, 0.0], [-0.5, 0.5]]])
    assert points_in_boxes(relative, torch.tensor([[10.0, 20, 30, 60]])).tolist() == [[[20, 40], [10, 60]]]
