"""The loss of instances against NumPy loops, and its behaviour for rows and objects that do not count."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from brickyard.parts.detection.fcos import FCOSLoss
from brickyard.parts.detection.points import anchors_around, cell_centers
from brickyard.parts.instances.losses import InstanceLoss
from brickyard.parts.instances.targets import PadInstances

STRIDES, SIZE, CELLS = (8, 16, 32), (64, 96), (16, 24)
MAPS = [torch.zeros(1, 1, SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
ANCHORS = anchors_around(cell_centers(MAPS, STRIDES, SIZE, 3), [[(stride, stride)] for stride in STRIDES])
P, K, C, J = len(ANCHORS), 3, 4, 2
SIGMAS = (0.05, 0.1)
BOXES = [[[10.0, 10, 40, 50], [50, 20, 80, 60]], [[30.0, 4, 70, 44]], []]


def outputs(images=3):
    torch.manual_seed(0)
    return {
        "logits": torch.randn(images, P, K, requires_grad=True),
        "regression": torch.rand(images, P, 4).mul(3).requires_grad_(),
        "centerness": torch.randn(images, P, 1, requires_grad=True),
        "coefficients": torch.randn(images, P, C).tanh().requires_grad_(),
        "prototypes": torch.rand(images, C, *CELLS).requires_grad_(),
        "points": torch.randn(images, P, J, 3).mul(0.3).requires_grad_(),
    }


def targets(images=(0, 1, 2)):
    made = []
    for image in images:
        torch.manual_seed(image)
        boxes = torch.tensor(BOXES[image]).reshape(-1, 4)
        masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
        for mask, box in zip(masks, boxes.int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = torch.rand(box[3] - box[1], box[2] - box[0]) < 0.7
        corners = torch.cat([boxes.reshape(-1, 2, 2), torch.full((len(boxes), 2, 1), 2.0)], dim=-1)
        labels = torch.arange(len(boxes))
        made.append({"boxes": boxes, "labels": labels, "masks": masks, "keypoints": corners})
    return made


def loss_of(values, objects, labelled=None, entries=("masks", "keypoints")):
    padded = PadInstances(K, list(entries))(objects, torch.zeros(len(objects), 3, *SIZE))
    named = dict(zip(("boxes", "labels", *entries), padded, strict=True))
    anchors = ANCHORS.expand(len(objects), -1, -1)
    return InstanceLoss(STRIDES, SIGMAS)(**values, anchors=anchors, **named, labelled=labelled)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def matches(objects):
    """The object of each point of each image, as in FCOS."""
    padded = PadInstances(K, [])(objects, torch.zeros(len(objects), 3, *SIZE))
    return FCOSLoss(STRIDES).match(ANCHORS, *padded).tolist()


def mask_loss_by_loops(values, objects):
    terms = []
    for image, of_image in enumerate(matches(objects)):
        coefficients, prototypes = (values[name][image].detach().numpy() for name in ("coefficients", "prototypes"))
        quality = {}
        for point, match in enumerate(of_image):
            if match >= 0:
                (x, y), (x1, y1, x2, y2) = (ANCHORS[point, :2] + ANCHORS[point, 2:]) / 2, objects[image]["boxes"][match]
                sides = [float(side) for side in (x - x1, x2 - x, y - y1, y2 - y)]
                share = min(sides[:2]) / max(sides[:2]) * min(sides[2:]) / max(sides[2:])
                quality.setdefault(match, []).append((-(share**0.5), point))
        for match, points in quality.items():
            mask, (x1, y1, x2, y2) = objects[image]["masks"][match].numpy(), objects[image]["boxes"][match].tolist()
            share = mask.reshape(2 * CELLS[0], 2, 2 * CELLS[1], 2).mean(axis=(1, 3))
            for _, point in sorted(points)[:4]:
                small = sigmoid(sum(c * p for c, p in zip(coefficients[point], prototypes, strict=True)))
                probability = interpolate(torch.from_numpy(small)[None, None], scale_factor=2, mode="bilinear")[0, 0]
                entropy, common, total, count = 0.0, 0.0, 0.0, 0
                for row, column in np.ndindex(*probability.shape):
                    if x1 - 1 < column * 2 + 1 < x2 + 1 and y1 - 1 < row * 2 + 1 < y2 + 1:
                        p, t = probability[row, column].item(), share[row, column]
                        entropy -= t * np.log(p) + (1 - t) * np.log(1 - p)
                        common, total, count = common + p * t, total + p * p + t * t, count + 1
                terms.append(entropy / count + 1 - (2 * common + 1e-3) / (total + 1e-3))
    return np.mean(terms)


def test_the_mask_loss_is_that_of_the_definition():
    values, objects = outputs(), targets()
    points = [point for of_image in matches(objects) for point in of_image if point >= 0]
    assert len(points) > 12, "more than the 4 points of each object whose masks are learned"
    assert loss_of(values, objects)[4].item() == pytest.approx(mask_loss_by_loops(values, objects), rel=1e-4)


def point_losses_by_loops(values, objects):
    similar, visible = [], []
    for image, of_image in enumerate(matches(objects)):
        raw, sides = values["points"][image].detach().numpy(), values["regression"][image].detach().numpy()
        for point, match in enumerate(of_image):
            if match < 0:
                continue
            low, high = ANCHORS[point, :2].numpy(), ANCHORS[point, 2:].numpy()
            start = (low + high) / 2 - sides[point, :2] * (high - low)
            stop = (low + high) / 2 + sides[point, 2:] * (high - low)
            found = (start + stop) / 2 + raw[point, :, :2] * (stop - start)
            x1, y1, x2, y2 = objects[image]["boxes"][match].tolist()
            target, area = objects[image]["keypoints"][match].numpy(), (x2 - x1) * (y2 - y1)
            known = [j for j in range(J) if target[j, 2] > 0]
            entropies = [-np.log(sigmoid(raw[point, j, 2] if j in known else -raw[point, j, 2])) for j in range(J)]
            visible.append(np.mean(entropies))
            if known:
                away = [found[j] - target[j, :2] for j in known]
                oks = np.mean(
                    [
                        np.exp(-(d @ d) / (2 * 0.53 * area * (2 * SIGMAS[j]) ** 2))
                        for d, j in zip(away, known, strict=True)
                    ]
                )
                similar.append(1 - oks + np.mean([np.abs(d).sum() for d in away]) / area**0.5)
    return np.mean(similar), np.mean(visible)


def test_the_key_point_losses_are_those_of_the_definition():
    values, objects = outputs(), targets()
    objects[0]["keypoints"][0, 1] = 0  # unknown
    objects[1]["keypoints"][0] = 0  # all of them
    points, visible = point_losses_by_loops(values, objects)
    loss = loss_of(values, objects)
    assert loss[5].item() == pytest.approx(points, rel=1e-4)
    assert loss[6].item() == pytest.approx(visible, rel=1e-4)


def test_the_total_is_the_sum_of_its_terms_and_those_of_boxes_are_fcos_own():
    values, objects = outputs(), targets()
    total, *terms = loss_of(values, objects)
    torch.testing.assert_close(total, torch.stack(terms).sum())
    boxes, labels = PadInstances(K, [])(objects, torch.zeros(3, 3, *SIZE))
    raw = (values["logits"], values["regression"], values["centerness"])
    expected = FCOSLoss(STRIDES)(*raw, ANCHORS.expand(3, -1, -1), boxes, labels)
    torch.testing.assert_close(terms[:3], list(expected[1:]))


def test_perfect_key_points_have_no_loss():
    values, objects = outputs(), targets()
    match = matches(objects)
    for image, of_image in enumerate(match):
        for point, index in enumerate(of_image):
            if index >= 0:  # the box is the target's, and the key points are two of its corners
                x1, y1, x2, y2 = objects[image]["boxes"][index]
                x, y = (ANCHORS[point, :2] + ANCHORS[point, 2:]) / 2
                size = ANCHORS[point, 2] - ANCHORS[point, 0]
                with torch.no_grad():
                    values["regression"][image, point] = torch.stack([x - x1, y - y1, x2 - x, y2 - y]) / size
                    values["points"][image, point, :, :2] = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    assert loss_of(values, objects)[5].item() == pytest.approx(0, abs=1e-4)


def test_unlabelled_images_do_not_change_the_loss_and_get_no_gradient():
    values, labelled = outputs(), torch.tensor([True, False, True])
    objects = targets()
    objects[1]["keypoints"][:] = torch.nan
    value = loss_of(values, objects, labelled)
    alone = loss_of({name: each[labelled] for name, each in values.items()}, targets([0, 2]))
    torch.testing.assert_close(value, alone)
    for name, gradient in zip(values, torch.autograd.grad(value[0], list(values.values())), strict=True):
        assert gradient.isfinite().all()
        assert not gradient[~labelled].any(), name
        assert gradient[0].any(), name


@pytest.mark.parametrize("objects", [targets(), targets([2, 2, 2])], ids=["unlabelled", "empty"])
def test_without_objects_masks_and_key_points_have_a_zero_loss_that_runs_backward(objects):
    values = outputs()
    labelled = None if not len(objects[0]["boxes"]) else torch.zeros(3, dtype=torch.bool)
    loss = loss_of(values, objects, labelled)
    assert [each.item() for each in loss[4:]] == [0, 0, 0]
    for gradient in torch.autograd.grad(loss[0], list(values.values())):
        assert gradient.isfinite().all()


def test_objects_to_ignore_have_no_mask_and_no_key_points_to_learn():
    values = outputs()
    marked = targets()
    marked[0]["ignore"] = torch.tensor([False, True])
    kept = targets()
    kept[0] = {name: value[:1] for name, value in kept[0].items()}
    torch.testing.assert_close(loss_of(values, marked)[2:], loss_of(values, kept)[2:])
