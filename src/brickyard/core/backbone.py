"""The brick of a timm backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from brickyard.core.brick import InputNames, Tags
from brickyard.core.modules import BrickModule
from brickyard.core.tags import Tag
from brickyard.errors import BrickInputError


class BrickBackbone(BrickModule):
    """A whole timm model, run once for its feature maps and its pooled vector.

    Args:
        model: A timm model without classifier, as `timm_backbone` builds it. It is not modified, so the weights of the
            brick can be loaded into the plain timm model, and the reverse.
        input_names: One name: the normalised image, (B, C, H, W).
        output_names: Two names: the feature maps, a tuple of (B, C_i, H / s_i, W / s_i); the embedding, (B, E).
        tags: See `Brick`.
        trainable: See `BrickModule`.
        fixed_size: The only (H, W) in pixels that timm declares as valid, None for any.
        group: See `Brick`.

    Raises:
        BrickInputError: At the call: images of another size than `fixed_size`, or smaller than the stride of the
            deepest feature map, if the backbone cannot process them.
    """

    style: ClassVar[dict[str, str]] = {"stroke-width": "0px", "fill": "#6D597A"}

    def __init__(
        self,
        model: nn.Module,
        input_names: InputNames,
        output_names: Sequence[str],
        tags: Tags = Tag.MODEL,
        trainable: bool = True,
        fixed_size: Sequence[int] | None = None,
        group: Tags | None = None,
    ) -> None:
        super().__init__(model, input_names, output_names, tags, trainable=trainable, group=group)
        self.fixed_size = fixed_size

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._names_and_tags(), "trainable": self.trainable, "fixed_size": self.fixed_size}

    def forward(self, named_inputs: dict[str, Any]) -> dict[str, Any]:
        return self._named(self._call(self._features, named_inputs))

    def _features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        try:
            return timm_features(self.model, image)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if image.shape[0] == 0:  # some of timm's models cannot reshape an empty batch
                features, embedding = timm_features(self.model, image.new_zeros(1, *image.shape[1:]))
                return tuple(map_[:0] for map_ in features), embedding[:0]
            deepest = self.provides.features.strides[-1] if self.provides is not None else 1
            if min(image.shape[-2:]) < deepest:
                expected = f"images of at least {deepest}x{deepest} pixels, the stride of the deepest feature map"
                found = f"{image.shape[-2]}x{image.shape[-1]}"
                raise BrickInputError(f"brick '{self.path}'", expected, found, "Resize them.") from error
            if self.fixed_size is None or tuple(image.shape[-2:]) == tuple(self.fixed_size):
                raise
            expected = f"images of {self.fixed_size[0]}x{self.fixed_size[1]} pixels (H x W), which the backbone fixes"
            hint = "Resize them, or create the model with img_size=, or dynamic_img_size=True where timm has it."
            raise BrickInputError(
                f"brick '{self.path}'", expected, f"{image.shape[-2]}x{image.shape[-1]}", hint
            ) from error


def timm_features(model: Any, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run a timm model once for both its feature maps and its pooled vector.

    Args:
        model: A model of timm, as `timm_backbone` makes it.
        image: (B, C, H, W), normalised.

    Returns:
        features, each (B, C_i, H / s_i, W / s_i), fine to coarse; and the embedding (B, E) that timm's own classifier
        reads.
    """
    last, features = model.forward_intermediates(image, output_fmt="NCHW")
    return tuple(features), model.forward_head(last, pre_logits=True)
