"""torchvision's detectors without backbones, as references."""

import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD

STRIDES = (8, 16, 32, 64, 128)
SIZE = (96, 128)
CELLS = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
COUNTS = [height * width for height, width in CELLS]


class NoBackbone(nn.Module):
    out_channels = 32


def fcos(num_classes: int, **options) -> FCOS:
    generator = AnchorGenerator(tuple((stride,) for stride in STRIDES), ((1.0,),) * len(STRIDES))
    return FCOS(NoBackbone(), num_classes, anchor_generator=generator, head=FCOSHead(32, 1, num_classes), **options)


def retinanet(num_classes: int, **options) -> RetinaNet:
    return RetinaNet(NoBackbone(), num_classes, head=RetinaNetHead(32, 9, num_classes), **options)


def ssd(num_classes: int) -> SSD:
    generator = DefaultBoxGenerator([[2, 3]])
    return SSD(NoBackbone(), generator, (96, 96), num_classes + 1, head=nn.Identity())


def maps(channels: int = 4) -> list[torch.Tensor]:
    return [torch.zeros(1, channels, height, width) for height, width in CELLS]


def random_targets(images: int, num_classes: int, counts=(5, 0, 1, 9)) -> list[dict[str, torch.Tensor]]:
    """Create overlapping boxes with sides of 8 to 90 pixels."""
    targets = []
    for index in range(images):
        count = counts[index % len(counts)]
        size = 8 + 82 * torch.rand(count, 2)
        start = torch.rand(count, 2) * (torch.tensor([SIZE[1], SIZE[0]]) - size)
        targets.append(
            {"boxes": torch.cat([start, start + size], dim=1), "labels": torch.randint(num_classes, (count,))}
        )
    return targets


def assert_same_gradients(loss, reference, leaves) -> None:
    for left, right in zip(
        torch.autograd.grad(loss, leaves, retain_graph=True), torch.autograd.grad(reference, leaves), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
