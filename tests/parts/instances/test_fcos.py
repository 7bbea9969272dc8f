import pytest
import torch

from brickyard.parts.instances.fcos import InstanceFCOS

CHANNELS, STRIDES = (8, 12, 16, 24), (4, 8, 16, 32)
IMAGE = torch.zeros(2, 3, 96, 64)


def features(channels=CHANNELS, strides=STRIDES, size=(96, 64)):
    torch.manual_seed(0)
    return [
        torch.rand(2, count, -(-size[0] // stride), -(-size[1] // stride))
        for count, stride in zip(channels, strides, strict=True)
    ]


def test_it_has_an_output_for_each_cell_of_each_map():
    head = InstanceFCOS(CHANNELS, STRIDES, num_classes=5, num_prototypes=7, num_keypoints=3, width=16)
    logits, regression, centerness, anchors, coefficients, prototypes, points = head(features(), IMAGE)
    assert head.strides == (8, 16, 32, 64, 128)
    cells = 12 * 8 + 6 * 4 + 3 * 2 + 2 * 1 + 1 * 1
    assert logits.shape == (2, cells, 5)
    assert regression.shape == (2, cells, 4)
    assert (regression > 0).all()
    assert centerness.shape == (2, cells, 1)
    assert anchors.shape == (2, cells, 4)
    assert anchors[0, :2].tolist() == [[0, 0, 8, 8], [8, 0, 16, 8]]
    assert anchors[0, 96].tolist() == [0, 0, 16, 16]
    assert coefficients.shape == (2, cells, 7)
    assert (coefficients.abs() <= 1).all()
    assert prototypes.shape == (2, 7, 24, 16)
    assert (prototypes >= 0).all()
    assert points.shape == (2, cells, 3, 3)


@pytest.mark.parametrize(("options", "count"), [({}, 4), ({"num_prototypes": 4}, 6), ({"num_keypoints": 4}, 5)])
def test_masks_and_key_points_have_no_weights_unless_they_are_predicted(options, count):
    head = InstanceFCOS(CHANNELS, STRIDES, num_classes=5, width=16, **options)
    assert len(head(features(), IMAGE)) == count
    assert any("prototypes" in name for name in head.state_dict()) == ("num_prototypes" in options)
    assert any("points" in name for name in head.state_dict()) == ("num_keypoints" in options)


@pytest.mark.parametrize("strides", [(8, 16, 32), (2, 4, 8, 16, 32), (16, 32), (7, 14), (4,)])
def test_prototypes_have_a_stride_of_about_4_on_any_backbone(strides):
    channels = [8 + stride for stride in strides]
    head = InstanceFCOS(channels, strides, num_classes=2, num_prototypes=3, width=16)
    prototypes = head(features(channels, strides), IMAGE)[5]
    assert 96 / prototypes.shape[2] == pytest.approx(4, rel=0.2)


def test_an_object_in_one_place_changes_the_outputs_there_only_through_its_class_if_asked():
    # The towers are separate: gradients of the classes do not reach the boxes' tower and the other way round.
    head = InstanceFCOS(CHANNELS, STRIDES, num_classes=5, num_keypoints=3, width=16)
    logits, regression, *_ = head(features(), IMAGE)
    logits.sum().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in head.box_tower.parameters())
    head.zero_grad()
    regression.sum().backward()
    assert all(parameter.grad is None for parameter in head.class_tower.parameters())


@pytest.mark.parametrize("options", [{"num_prototypes": 16}, {"num_keypoints": 17}])
def test_the_default_head_of_a_small_backbone_takes_less_than_400_kilobytes_in_half_precision(options):
    head = InstanceFCOS((16, 24, 40, 112, 320), (2, 4, 8, 16, 32), num_classes=10, **options)
    assert sum(parameter.numel() for parameter in head.parameters()) * 2 < 400_000
