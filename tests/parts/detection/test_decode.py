"""Decoders against torchvision's post-processing of the same head outputs."""

import pytest
import torch
from torchvision.ops import nms

from brickyard.parts.detection.decode import batched_nms
from brickyard.parts.detection.fcos import FCOSDecode
from brickyard.parts.detection.points import anchors_around, cell_centers
from brickyard.parts.detection.retinanet import RetinaNetDecode, _shapes
from brickyard.parts.detection.ssdlite import SSDLiteDecode
from brickyard.parts.detection.ssdlite import _shapes as default_boxes
from tests.parts.detection.references import COUNTS, SIZE, STRIDES, fcos, maps, retinanet, ssd

K = 4
IMAGE = torch.zeros(3, 3, *SIZE)
CENTERS = cell_centers(maps(), STRIDES, SIZE, num_backbone_maps=3)


def by_level(tensor, counts):
    return list(tensor.split(counts, dim=1))


def assert_same(actual, reference, offset=0) -> None:
    """Check that the detections are those of the reference in order, followed by padding."""
    for boxes, scores, labels, expected in zip(*actual, reference, strict=True):
        count = len(expected["scores"])
        torch.testing.assert_close(scores[:count], expected["scores"])
        torch.testing.assert_close(boxes[:count], expected["boxes"], rtol=1e-5, atol=1e-4)
        assert torch.equal(labels[:count] + offset, expected["labels"])
        assert not scores[count:].any()
        assert not boxes[count:].any()
        assert (labels[count:] == -1).all()


@pytest.mark.parametrize("shift", [-4.0, -1.5, 0.0], ids=["few", "some", "many"])
def test_fcos_equals_torchvisions(shift):
    squares = anchors_around(CENTERS, [[(stride, stride)] for stride in STRIDES])
    logits, regression = torch.randn(3, len(squares), K) + shift, torch.randn(3, len(squares), 4).relu()
    centerness = torch.randn(3, len(squares), 1)
    expected = fcos(K).postprocess_detections(
        {
            "cls_logits": by_level(logits, COUNTS),
            "bbox_regression": by_level(regression, COUNTS),
            "bbox_ctrness": by_level(centerness, COUNTS),
        },
        [list(squares.split(COUNTS))] * 3,
        [SIZE] * 3,
    )
    assert any(len(each["scores"]) for each in expected)
    assert_same(FCOSDecode()(logits, regression, centerness, squares.expand(3, -1, -1), IMAGE), expected)


@pytest.mark.parametrize("shift", [-6.0, -3.0], ids=["few", "many"])
def test_retinanet_equals_torchvisions(shift):
    anchors = anchors_around(CENTERS, [_shapes(stride) for stride in STRIDES])
    counts = [9 * count for count in COUNTS]
    logits, regression = torch.randn(3, len(anchors), K) + shift, torch.randn(3, len(anchors), 4)
    expected = retinanet(K, detections_per_img=100).postprocess_detections(
        {"cls_logits": by_level(logits, counts), "bbox_regression": by_level(regression, counts)},
        [list(anchors.split(counts))] * 3,
        [SIZE] * 3,
    )
    assert any(len(each["scores"]) for each in expected)
    assert_same(RetinaNetDecode()(logits, regression, anchors.expand(3, -1, -1), IMAGE), expected)


def test_ssdlite_equals_torchvisions():
    anchors = anchors_around(CENTERS, [default_boxes(stride) for stride in STRIDES])
    logits, regression = 3 * torch.randn(3, len(anchors), K + 1), torch.randn(3, len(anchors), 4)
    reference = ssd(K)
    reference.score_thresh, reference.nms_thresh, reference.detections_per_img = 0.001, 0.55, 100
    expected = reference.postprocess_detections(
        {"cls_logits": logits, "bbox_regression": regression}, [anchors] * 3, [SIZE] * 3
    )
    assert_same(SSDLiteDecode()(logits, regression, anchors.expand(3, -1, -1), IMAGE), expected, offset=1)


def simple(scores, boxes, **changes):
    options = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates": 100, "count": 5, **changes}
    return batched_nms(torch.tensor(scores), torch.tensor(boxes), (50, 50), **options)


BOX = [10.0, 10.0, 30.0, 30.0]
NEAR = [11.0, 10.0, 30.0, 30.0]
FAR = [32.0, 32.0, 45.0, 45.0]


def test_boxes_are_suppressed_only_within_a_class_and_an_image():
    boxes, scores, labels, _ = simple(
        [[[0.5, 0.0], [0.9, 0.0], [0.0, 0.8]], [[0.7, 0.0], [0.05, 0.0], [0.0, 0.6]]], [[BOX, NEAR, NEAR]] * 2
    )
    assert scores.tolist() == [pytest.approx([0.9, 0.8, 0, 0, 0]), pytest.approx([0.7, 0.6, 0, 0, 0])]
    assert labels.tolist() == [[0, 1, -1, -1, -1]] * 2
    assert boxes[0].tolist() == [NEAR, NEAR, *[[0, 0, 0, 0]] * 3]
    assert boxes[1].tolist() == [BOX, NEAR, *[[0, 0, 0, 0]] * 3]


def test_class_agnostic_suppression_gives_an_object_one_label():
    _, scores, labels, _ = simple(
        [[[0.5, 0.0], [0.9, 0.0], [0.0, 0.8]], [[0.7, 0.0], [0.05, 0.0], [0.0, 0.75]]],
        [[BOX, NEAR, NEAR], [BOX, FAR, FAR]],
        class_agnostic=True,
    )
    assert scores.tolist() == [pytest.approx([0.9, 0, 0, 0, 0]), pytest.approx([0.75, 0.7, 0, 0, 0])]
    assert labels.tolist() == [[0, -1, -1, -1, -1], [1, 0, -1, -1, -1]]


@pytest.mark.parametrize("decoder", [FCOSDecode, RetinaNetDecode, SSDLiteDecode])
def test_class_agnostic_decoders_equal_torchvisions_nms_over_all_classes(decoder):
    anchors = anchors_around(CENTERS, [[(stride, stride)] for stride in STRIDES])
    outputs = [torch.randn(1, len(anchors), K + (decoder is SSDLiteDecode)), torch.randn(1, len(anchors), 4).relu()]
    outputs += [torch.randn(1, len(anchors), 1)] if decoder is FCOSDecode else []
    everything = {"score_threshold": 0.3, "count": 2000, "candidates": 2000}
    raw = decoder(**everything, iou_threshold=1.0)(*outputs, anchors[None], IMAGE[:1])
    candidates, scores, labels = (each[0][raw[1][0] > 0] for each in raw)
    kept = nms(candidates, scores, 0.5)
    assert 0 < len(kept) < len(scores)
    boxes, _, kept_labels = decoder(**everything, iou_threshold=0.5, class_agnostic=True)(
        *outputs, anchors[None], IMAGE[:1]
    )
    torch.testing.assert_close(boxes[0, : len(kept)], candidates[kept])
    assert torch.equal(kept_labels[0, : len(kept)], labels[kept])
    assert (kept_labels[0, len(kept) :] == -1).all()


def test_a_float64_default_dtype_changes_nothing():
    expected = simple([[[0.5], [0.9]]], [[BOX, FAR]])
    scores, boxes = torch.tensor([[[0.5], [0.9]]]), torch.tensor([[BOX, FAR]])
    torch.set_default_dtype(torch.float64)
    try:
        options = {"score_threshold": 0.1, "iou_threshold": 0.5, "candidates": 100, "count": 5}
        actual = batched_nms(scores, boxes, (50, 50), **options)
        double = batched_nms(scores.double(), boxes.double(), (50, 50), **options)
    finally:
        torch.set_default_dtype(torch.float32)
    for each in (actual, double):
        assert [value.dtype for value in each] == [value.dtype for value in expected]
        assert all(torch.equal(*pair) for pair in zip(each, expected, strict=True))


def test_no_detections_are_all_padding():
    boxes, scores, labels, _ = simple([[[0.05], [0.0]]], [[BOX, FAR]])
    assert not boxes.any()
    assert not scores.any()
    assert (labels == -1).all()
    assert labels.dtype == torch.int64


def test_the_number_of_detections_is_limited_to_the_best():
    _, scores, *_ = simple([[[0.3], [0.9]]], [[BOX, FAR]], count=1)
    assert scores.tolist() == [[pytest.approx(0.9)]]


def test_boxes_of_many_classes_and_images_do_not_suppress_each_other():
    """With a shift along one axis, the boxes of the last class would be at millions of pixels."""
    classes, images = 1000, 4
    box = torch.tensor([100.0, 100.0, 104.0, 104.0])
    boxes = torch.stack([box, box + torch.tensor([1.0, 0, 1, 0])]).expand(images, -1, -1)  # an IoU of 0.6
    scores = torch.zeros(images, 2, classes)
    scores[:, 0, -1], scores[:, 1, -1] = 0.9, 0.8
    detected = batched_nms(
        scores, boxes, (1280, 1280), score_threshold=0.1, iou_threshold=0.59, candidates=100, count=5
    )
    assert (detected[1] > 0).sum(dim=1).tolist() == [1] * images
    detected = batched_nms(
        scores, boxes, (1280, 1280), score_threshold=0.1, iou_threshold=0.61, candidates=100, count=5
    )
    assert (detected[1] > 0).sum(dim=1).tolist() == [2] * images


def test_half_precision_is_decoded_in_float32():
    half = batched_nms(
        torch.rand(1, 6, 2).bfloat16(), torch.rand(1, 6, 4).bfloat16(), (50, 50),
        score_threshold=0.1, iou_threshold=0.5, candidates=10, count=5,
    )  # fmt: skip
    assert [each.dtype for each in half] == [torch.float32, torch.float32, torch.int64, torch.int64]


def test_the_anchor_of_each_detection_is_returned():
    torch.manual_seed(0)
    start = torch.rand(2, 30, 2) * 40
    boxes, scores = torch.cat([start, start + 9], dim=-1), torch.rand(2, 30, K)
    options = {"score_threshold": 0.5, "iou_threshold": 0.5, "candidates": 50, "count": 60}
    kept, best, labels, anchors = batched_nms(scores, boxes, (50, 50), **options)
    for image, row in (labels >= 0).nonzero().tolist():
        assert torch.equal(kept[image, row], boxes[image, anchors[image, row]])
        assert best[image, row] == scores[image, anchors[image, row], labels[image, row]]
    assert (labels < 0).any()
    assert not anchors[labels < 0].any()
