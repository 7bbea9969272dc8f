import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from brickyard.parts.detection.points import anchors_around, cell_centers, levels_from
from brickyard.parts.detection.retinanet import RetinaNet
from brickyard.parts.detection.ssdlite import SSDLite


def centers(size, strides, cells, num_backbone_maps=None):
    maps = [torch.zeros(1, 2, *shape) for shape in cells]
    return cell_centers(maps, strides, size, num_backbone_maps or len(strides))


def test_points_of_an_image_of_odd_size_are_the_centres_of_its_cells():
    fine, coarse = centers((97, 131), (8, 16), [(13, 17), (7, 9)])
    assert fine.shape == (13 * 17, 2)
    assert fine[0].tolist() == [4, 4]
    assert fine[1].tolist() == [12, 4]
    assert fine[17].tolist() == [4, 12]
    assert fine[-1].tolist() == [16 * 8 + 4, 12 * 8 + 4]
    assert coarse[-1].tolist() == [8 * 16 + 8, 6 * 16 + 8]


def test_coarse_points_of_a_wide_image_use_the_stride():
    # torchvision's generator divides 160 by 2 cells and 224 by 2: strides of 80 and 112 instead of 128.
    coarse = centers((160, 224), (128,), [(2, 2)])[0]
    assert coarse.tolist() == [[64, 64], [192, 64], [64, 192], [192, 192]]


@pytest.mark.parametrize(
    ("strides", "cells", "last"),
    [
        ((7, 14, 28), [(20, 20), (10, 10), (5, 5)], [[136.5, 136.5], [133, 133], [126, 126]]),
        ((12, 17), [(11, 11), (8, 8)], [[126, 126], [127.5, 127.5]]),
    ],
)
def test_points_of_odd_strides_may_be_between_pixels(strides, cells, last):
    assert [points[-1].tolist() for points in centers((140, 140), strides, cells)] == last


def test_a_map_cropped_by_convolutions_without_padding_is_centred():
    # inception_v3 at 299 pixels loses 2.5 pixels on each side at stride 2, and 21.5 at stride 32.
    fine, coarse, extra = centers((299, 299), (2, 32, 64), [(147, 147), (8, 8), (4, 4)], num_backbone_maps=2)
    assert fine[0].tolist() == [2.5 + 1, 2.5 + 1]
    assert coarse[0].tolist() == [21.5 + 16, 21.5 + 16]
    assert coarse[-1].tolist() == [299 - 21.5 - 16, 299 - 21.5 - 16]
    assert extra[0].tolist() == [21.5 + 32, 21.5 + 32], "additional maps start where the last map of the backbone does"


@pytest.mark.parametrize("size", [8, 15, 32])
def test_cells_of_a_cropped_map_are_centred_on_their_receptive_field(size):
    """The receptive field of a cell is where its gradient is not zero."""
    size += 64
    image = torch.zeros(1, 1, size, size, requires_grad=True)
    net = torch.nn.Sequential(*(torch.nn.Conv2d(1, 1, 5, stride=2) for _ in range(3)))
    for parameter in net.parameters():
        torch.nn.init.ones_(parameter)
    features = net(image)
    points = cell_centers([features], (8,), (size, size), 1)[0]
    for index in (0, features.shape[-1] - 1):
        field = torch.autograd.grad(features[0, 0, 0, index], image, retain_graph=True)[0][0, 0].sum(0).nonzero()
        middle = (field.min() + field.max() + 1) / 2
        assert abs(points[index, 0] - middle) <= 4, "half a cell at most"


def test_anchors_have_the_order_of_torchvisions_heads():
    generator = AnchorGenerator(((16, 32), (64, 128)), ((0.5, 2.0),) * 2)
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    maps = [torch.zeros(1, 2, 8, 12), torch.zeros(1, 2, 4, 6)]
    expected = generator(images, maps)[0]
    # torchvision centres anchors on the corners of cells and rounds them to whole pixels.
    shapes = [[tuple((box[2:] - box[:2]).tolist()) for box in cell] for cell in generator.cell_anchors]
    anchors = anchors_around(cell_centers(maps, (8, 16), (64, 96), 2), shapes)
    half = torch.cat([torch.full((8 * 12 * 4, 1), 4.0), torch.full((4 * 6 * 4, 1), 8.0)])
    torch.testing.assert_close(anchors, expected + half)


def test_retinanets_anchors_have_torchvisions_sizes():
    head = RetinaNet([4, 4, 4], [8, 16, 32], num_classes=2)
    image = torch.zeros(1, 3, 64, 64)
    anchors = head([torch.zeros(1, 4, 64 // stride, 64 // stride) for stride in (8, 16, 32)], image)[2][0]
    size = anchors[:, 2:] - anchors[:, :2]
    expected = AnchorGenerator.generate_anchors(
        None, [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)], [0.5, 1.0, 2.0]
    )  # rounded to whole pixels
    torch.testing.assert_close(size[:9], expected[:, 2:] - expected[:, :2], rtol=0, atol=1.01)
    assert (size[:, 0] * size[:, 1]).min().item() == pytest.approx(32**2)
    assert size[-1].tolist() == pytest.approx([4 * 128 * 2 ** (2 / 3) / 2**0.5, 4 * 128 * 2 ** (2 / 3) * 2**0.5])


def test_ssdlites_default_boxes_are_two_squares_and_four_rectangles_of_equal_area():
    head = SSDLite([4, 4], [16, 32], num_classes=2).eval()
    anchors = head([torch.zeros(1, 4, 6, 8), torch.zeros(1, 4, 3, 4)], torch.zeros(1, 3, 96, 128))[2][0]
    size = (anchors[:, 2:] - anchors[:, :2])[:6]
    assert size[0].tolist() == [64, 64]
    assert size[1].tolist() == pytest.approx([64 * 2**0.5] * 2)
    torch.testing.assert_close(size[2:].prod(dim=1), torch.full((4,), 64.0**2))
    torch.testing.assert_close(size[2:, 0] / size[2:, 1], torch.tensor([2, 1 / 2, 3, 1 / 3]))
    assert ((anchors[0, :2] + anchors[0, 2:]) / 2).tolist() == [8, 8]


def test_levels_start_near_the_requested_stride():
    assert levels_from((2, 4, 8, 16, 32), 8) == [2, 3, 4]
    assert levels_from((4, 8, 16, 32), 8) == [1, 2, 3]
    assert levels_from((7, 14, 28), 8) == [0, 1, 2]
    assert levels_from((12, 17), 8) == [0, 1]
    assert levels_from((16, 32, 64), 8) == [0, 1, 2]
    assert levels_from((1, 2, 4), 8) == [2]
