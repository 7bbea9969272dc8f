import torch
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou, clip_boxes_to_image

from brickyard.parts.detection.boxes import clip, decode_deltas, decode_distances, encode_deltas, pairwise_iou

FCOS = FCOSHead(32, 1, 1).box_coder
RETINANET = RetinaNetHead(4, 1, 1).regression_head.box_coder


def boxes(*shape):
    start = 50 * torch.rand(*shape, 2)
    return torch.cat([start, start + 5 + 60 * torch.rand(*shape, 2)], dim=-1)


def test_distances_are_decoded_as_by_torchvision():
    distances, anchors = torch.rand(3, 20, 4), boxes(20)
    torch.testing.assert_close(decode_distances(distances, anchors), FCOS.decode(distances, anchors.expand(3, -1, -1)))


def test_deltas_are_decoded_as_by_torchvision_with_the_same_limit():
    deltas, anchors = 3 * torch.randn(20, 4), boxes(20)
    torch.testing.assert_close(decode_deltas(deltas, anchors), RETINANET.decode_single(deltas, anchors))


def test_deltas_are_encoded_as_by_torchvision_and_decoded_again():
    targets, anchors = boxes(20), boxes(20)
    deltas = encode_deltas(targets, anchors)
    torch.testing.assert_close(deltas, RETINANET.encode_single(targets, anchors))
    torch.testing.assert_close(decode_deltas(deltas, anchors), targets)


def test_pairwise_iou_is_torchvisions():
    targets, anchors = boxes(3, 7), boxes(20)
    expected = torch.stack([box_iou(each, anchors) for each in targets])
    torch.testing.assert_close(pairwise_iou(targets, anchors), expected)


def test_boxes_are_clipped_as_by_torchvision():
    outside = boxes(30) * 3 - 40
    assert torch.equal(clip(outside, (60, 90)), clip_boxes_to_image(outside, (60, 90)))
