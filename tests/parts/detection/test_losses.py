"""Losses compared with torchvision's on the same head outputs."""

import pytest
import torch

from brickyard.parts.detection.fcos import FCOSLoss
from brickyard.parts.detection.points import anchors_around, cell_centers
from brickyard.parts.detection.retinanet import RetinaNetLoss, _shapes
from brickyard.parts.detection.ssdlite import SSDLiteLoss
from brickyard.parts.detection.ssdlite import _shapes as default_boxes
from brickyard.parts.detection.targets import PadBoxes
from tests.parts.detection.references import (
    COUNTS,
    SIZE,
    STRIDES,
    assert_same_gradients,
    fcos,
    maps,
    random_targets,
    retinanet,
    ssd,
)

K = 3
CENTERS = cell_centers(maps(), STRIDES, SIZE, num_backbone_maps=3)
SQUARES = anchors_around(CENTERS, [[(stride, stride)] for stride in STRIDES])
ANCHORS = anchors_around(CENTERS, [_shapes(stride) for stride in STRIDES])
DEFAULTS = anchors_around(CENTERS, [default_boxes(stride) for stride in STRIDES])


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def batched(anchors, images):
    return anchors.expand(images, -1, -1)


def padded(targets):
    return PadBoxes(K)(targets, torch.zeros(len(targets), 3, *SIZE))


@pytest.mark.parametrize("counts", [(5, 0, 1, 9), (0,), (40,)])
@pytest.mark.parametrize("seed", range(3))
def test_fcos_equals_torchvisions_in_value_and_gradient(counts, seed):
    torch.manual_seed(seed)
    targets = random_targets(4, K, counts)
    leaves = [leaf(4, len(SQUARES), K), leaf(4, len(SQUARES), 4), leaf(4, len(SQUARES), 1)]
    logits, regression, centerness = leaves[0], leaves[1].relu(), leaves[2]
    expected = fcos(K).compute_loss(
        targets,
        {"cls_logits": logits, "bbox_regression": regression, "bbox_ctrness": centerness},
        [SQUARES] * 4,
        COUNTS,
    )
    loss, *parts = FCOSLoss(STRIDES)(logits, regression, centerness, batched(SQUARES, 4), *padded(targets))
    torch.testing.assert_close(torch.stack(parts), torch.stack(list(expected.values())))
    torch.testing.assert_close(loss, sum(expected.values()))
    assert_same_gradients(loss, sum(expected.values()), leaves)


@pytest.mark.parametrize("counts", [(5, 0, 1, 9), (40,)])
@pytest.mark.parametrize("seed", range(3))
def test_retinanet_equals_torchvisions_in_value_and_gradient(counts, seed):
    torch.manual_seed(seed)
    targets = random_targets(4, K, counts)
    leaves = [leaf(4, len(ANCHORS), K), leaf(4, len(ANCHORS), 4)]
    outputs = {"cls_logits": leaves[0], "bbox_regression": leaves[1]}
    expected = retinanet(K).compute_loss(targets, outputs, [ANCHORS] * 4)
    loss, *parts = RetinaNetLoss()(*leaves, batched(ANCHORS, 4), *padded(targets))
    torch.testing.assert_close(torch.stack(parts), torch.stack(list(expected.values())))
    assert_same_gradients(loss, sum(expected.values()), leaves)


@pytest.mark.parametrize("counts", [(5, 0, 1, 9), (40,)])
@pytest.mark.parametrize("seed", range(3))
def test_ssdlite_equals_torchvisions_in_value_and_gradient(counts, seed):
    torch.manual_seed(seed)
    targets = random_targets(4, K, counts)
    leaves = [leaf(4, len(DEFAULTS), K + 1), leaf(4, len(DEFAULTS), 4)]
    reference = ssd(K)
    from torchvision.ops import box_iou  # noqa: PLC0415 - `SSD.forward` does the matching

    matches = [
        reference.proposal_matcher(box_iou(target["boxes"], DEFAULTS))
        if len(target["boxes"])
        else torch.full((len(DEFAULTS),), -1)
        for target in targets
    ]
    with_background = [{**target, "labels": target["labels"] + 1} for target in targets]
    outputs = {"cls_logits": leaves[0], "bbox_regression": leaves[1]}
    expected = reference.compute_loss(with_background, outputs, [DEFAULTS] * 4, matches)
    loss, loss_cls, loss_box = SSDLiteLoss()(*leaves, batched(DEFAULTS, 4), *padded(targets))
    torch.testing.assert_close(loss_cls, expected["classification"])
    torch.testing.assert_close(loss_box, expected["bbox_regression"])
    assert_same_gradients(loss, sum(expected.values()), leaves)


LOSSES = {
    "fcos": (FCOSLoss(STRIDES), SQUARES, [K, 4, 1]),
    "retinanet": (RetinaNetLoss(), ANCHORS, [K, 4]),
    "ssdlite": (SSDLiteLoss(), DEFAULTS, [K + 1, 4]),
}


@pytest.mark.parametrize("variant", LOSSES)
def test_unlabelled_images_do_not_change_the_loss(variant):
    loss, anchors, widths = LOSSES[variant]
    leaves = [leaf(4, len(anchors), width) for width in widths]
    targets = random_targets(4, K)
    labelled = torch.tensor([True, False, False, True])
    value = loss(*leaves, batched(anchors, 4), *padded(targets), labelled)[0]
    labelled_only = loss(*(each[labelled] for each in leaves), batched(anchors, 2), *padded([targets[0], targets[3]]))[
        0
    ]
    torch.testing.assert_close(value, labelled_only)
    for gradient in torch.autograd.grad(value, leaves):
        assert not gradient[~labelled].any()
        assert gradient[labelled].any()


@pytest.mark.parametrize("variant", LOSSES)
def test_without_labels_the_loss_is_0_and_can_run_backward(variant):
    loss, anchors, widths = LOSSES[variant]
    leaves = [leaf(2, len(anchors), width) for width in widths]
    value = loss(*leaves, batched(anchors, 2), *padded(random_targets(2, K)), torch.zeros(2, dtype=torch.bool))[0]
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, leaves):
        assert not gradient.any()


def in_crowd(anchors, crowd):
    """Which anchors have half of their area or more in a box."""
    low, high = torch.maximum(anchors[:, :2], crowd[:2]), torch.minimum(anchors[:, 2:], crowd[2:])
    return (high - low).clamp(min=0).prod(dim=1) >= 0.5 * (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)


@pytest.mark.parametrize("variant", LOSSES)
def test_background_in_a_box_to_ignore_has_no_loss(variant):
    torch.manual_seed(0)
    loss, anchors, widths = LOSSES[variant]
    leaves = [leaf(1, len(anchors), width) for width in widths]
    crowd = torch.tensor([64.0, 0, SIZE[1], SIZE[0]])
    objects = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([0])}
    marked = {
        "boxes": torch.cat([objects["boxes"], crowd[None]]),
        "labels": torch.tensor([0, 1]),
        "ignore": torch.tensor([False, True]),
    }
    plain = loss(*leaves, batched(anchors, 1), *padded([objects]))
    value = loss(*leaves, batched(anchors, 1), *padded([marked]))
    gradient = torch.autograd.grad(value[0], leaves)[0][0].any(dim=1)
    assert not gradient[in_crowd(anchors, crowd)].any()
    assert gradient[~in_crowd(anchors, crowd)].any()
    torch.testing.assert_close(value[2:], plain[2:])  # the object is learned as before
    assert value[1] < plain[1] or variant == "ssdlite"  # which takes its hardest negatives elsewhere


@pytest.mark.parametrize("variant", LOSSES)
def test_an_object_in_a_box_to_ignore_is_learned(variant):
    loss, anchors, widths = LOSSES[variant]
    leaves = [leaf(1, len(anchors), width) for width in widths]
    inside = torch.tensor([[8.0, 8, 40, 40]])
    marked = {
        "boxes": torch.cat([torch.tensor([[0.0, 0, SIZE[1], SIZE[0]]]), inside]),
        "labels": torch.tensor([1, 0]),
        "ignore": torch.tensor([True, False]),
    }
    alone = {"boxes": inside, "labels": torch.tensor([0])}
    value, expected = (loss(*leaves, batched(anchors, 1), *padded([each])) for each in (marked, alone))
    torch.testing.assert_close(value[2:], expected[2:])
    assert value[1] < expected[1]


def test_boxes_of_every_size_are_assigned_to_a_map():
    # For strides that do not double, torchvision's ranges (up to 64 and from 128 pixels) would have a gap.
    strides = (8, 32)
    cells = [torch.zeros(1, 1, 256 // stride, 256 // stride) for stride in strides]
    points = anchors_around(cell_centers(cells, strides, (256, 256), 2), [[(stride, stride)] for stride in strides])
    for side in range(8, 250, 2):
        box = torch.tensor([[[0.0, 0.0, side, side]]])
        match = FCOSLoss(strides).match(points, box, torch.zeros(1, 1, dtype=torch.int64))
        assert (match == 0).any(), side
