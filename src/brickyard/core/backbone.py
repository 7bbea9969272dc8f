"""The brick of a timm backbone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from brickyard.core.brick import InputNames, Tags
from brickyard.core.modules import BrickModule
from brickyard.core.names import Reference
from brickyard.core.specs import BLOCK_OUTPUTS, CLASS_TOKENS, NORMED_FEATURES
from brickyard.core.tags import Tag
from brickyard.errors import BrickGraphError, BrickInputError

_Outputs = tuple[tuple[Tensor, ...], Tensor, dict[str, tuple[Tensor | None, ...]]]


class BrickBackbone(BrickModule):
    """A whole timm model, run once for its feature maps and its pooled vector.

    Args:
        model: A timm model without classifier, as `timm_backbone` builds it. It is not modified, so the weights of the
            brick can be loaded into the plain timm model, and the reverse.
        input_names: One name: the normalised image, (B, C, H, W).
        output_names: Two names: the feature maps, a tuple of (B, C_i, H / s_i, W / s_i); the embedding, (B, E). A
            transformer can have further ones, whose last parts are those of `BackboneSpec.block_outputs`: tuples with
            an item for each block. Only the items that bricks read are computed; the others are None.
        tags: See `Brick`.
        trainable: See `BrickModule`.
        fixed_size: The only (H, W) in pixels that timm declares as valid, None for any.
        group: See `Brick`.

    Raises:
        BrickGraphError: An output name after the second is not that of a block output.
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
        if unknown := [name for name in self.on_request if name.rpartition("/")[2] not in BLOCK_OUTPUTS]:
            raise BrickGraphError(f"A backbone cannot write {unknown}: expected names that end in {BLOCK_OUTPUTS}.")

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._names_and_tags(), "trainable": self.trainable, "fixed_size": self.fixed_size}

    @property
    def on_request(self) -> tuple[str, ...]:
        return self.writes[2:]

    def forward(self, named_inputs: dict[str, Any], requests: tuple[Reference, ...] = ()) -> dict[str, Any]:
        features, embedding, further = self._call(partial(self._outputs, requests), named_inputs)
        return {self.writes[0]: features, self.writes[1]: embedding, **further}

    def _outputs(self, requests: tuple[Reference, ...], image: Tensor) -> _Outputs:
        try:
            return timm_outputs(self.model, image, requests)
        except (AssertionError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if image.shape[0] == 0:  # some of timm's models cannot reshape an empty batch
                return _without_rows(timm_outputs(self.model, image.new_zeros(1, *image.shape[1:]), requests))
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
    features, embedding, _ = timm_outputs(model, image)
    return features, embedding


def timm_outputs(model: Any, image: Tensor, requests: Sequence[Reference] = ()) -> _Outputs:
    """Run a timm model once for its feature maps, its pooled vector, and further values of its transformer blocks.

    Args:
        model: A model of timm, as `timm_backbone` makes it.
        image: (B, C, H, W), normalised.
        requests: Which of the values that `BackboneSpec.block_outputs` names are read, of which blocks.

    Returns:
        The features and the embedding of `timm_features`; and each value that is read, by its name: a tuple with an
        item for each block, None for blocks of which it is not read.
    """
    if any(read.name.endswith(CLASS_TOKENS) for read in requests):
        last, pairs = model.forward_intermediates(image, output_fmt="NCHW", return_prefix_tokens=True)
        features, tokens = tuple(map_ for map_, _ in pairs), [prefix[:, 0] for _, prefix in pairs]
    else:
        last, maps = model.forward_intermediates(image, output_fmt="NCHW")
        features, tokens = tuple(maps), []
    further: dict[str, list[Tensor | None]] = {}
    for read in requests:
        name = read.name.rpartition("/")[2]
        values = further.setdefault(read.name, [None] * len(features))
        for block in read.items(len(features)):
            if values[block] is not None:
                continue
            if name == NORMED_FEATURES:
                values[block] = _normed_map(model, features[block])
            else:
                values[block] = tokens[block] if name == CLASS_TOKENS else model.norm(tokens[block])
    return features, model.forward_head(last, pre_logits=True), {name: tuple(each) for name, each in further.items()}


def _normed_map(model: Any, features: Tensor) -> Tensor:
    """Apply the final norm of a transformer, which is over channels, to a map (B, C, h, w)."""
    tokens = features.flatten(2).transpose(1, 2)
    normed: Tensor = model.norm(tokens).transpose(1, 2).unflatten(2, features.shape[2:])
    return normed


def _without_rows(outputs: _Outputs) -> _Outputs:
    """Return the outputs for an empty batch, by those for one image."""
    features, embedding, further = outputs
    empty = {name: tuple(None if each is None else each[:0] for each in values) for name, values in further.items()}
    return tuple(map_[:0] for map_ in features), embedding[:0], empty
