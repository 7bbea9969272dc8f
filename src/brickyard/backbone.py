"""Backbones as bricks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models import ResNet

from brickyard.brick import InputNames, Tags
from brickyard.modules import BrickModule, BrickTrainable
from brickyard.parts.backbones import BackboneResnet, timm_features
from brickyard.tags import Tag


class BrickBackbone(BrickModule):
    """A whole timm model, run once for its feature maps and its pooled vector.

    Args:
        model: A timm model without classifier, as `timm_backbone` makes it. It stays timm's own, so the brick's
            weights load into the plain timm model and back.
        input_names: One name: the normalised image, (B, C, H, W).
        output_names: Two names: the feature maps, a tuple of (B, C_i, H / s_i, W / s_i); the embedding, (B, E).
        tags: See `Brick`.
        trainable: See `BrickModule`.
        group: See `Brick`.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#6D597A"}

    def __init__(
        self,
        model: nn.Module,
        input_names: InputNames,
        output_names: Sequence[str],
        tags: Tags = Tag.MODEL,
        trainable: bool = True,
        group: Tags | None = None,
    ) -> None:
        super().__init__(model, input_names, output_names, tags, trainable=trainable, group=group)

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._names_and_tags(), "trainable": self.trainable}

    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        return self._named(self._call(self._features, named_inputs))

    def _features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return timm_features(self.model, image)


def resnet_to_brick(resnet: ResNet, input_name: str, output_name: str) -> BrickTrainable:
    """A torchvision resnet without its classifier as a brick.

    Args:
        resnet: It stays as it is; the brick shares its layers.
        input_name: The normalised image, (B, 3, H, W).
        output_name: The last feature map, (B, n_backbone_features, H / 32, W / 32).
    """
    return BrickTrainable(BackboneResnet(resnet), input_names=[input_name], output_names=[output_name])
