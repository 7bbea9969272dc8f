"""A torchvision resnet as a brick."""

from __future__ import annotations

from torchvision.models import ResNet

from brickyard.core.modules import BrickTrainable
from brickyard.parts.backbones import BackboneResnet


def resnet_to_brick(resnet: ResNet, input_name: str, output_name: str) -> BrickTrainable:
    """A torchvision resnet without its classifier as a brick.

    Args:
        resnet: It stays as it is; the brick shares its layers.
        input_name: The normalised image, (B, 3, H, W).
        output_name: The last feature map, (B, n_backbone_features, H / 32, W / 32).
    """
    return BrickTrainable(BackboneResnet(resnet), input_names=[input_name], output_names=[output_name])
