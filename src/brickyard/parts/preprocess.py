"""From a picture in [0, 1] to what a backbone was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_OVERSHOOT = 0.1  # what a bicubic resize may add to [0, 1]


@final
class Preprocessor(nn.Module):
    """Normalise images: `(image - mean) / std` for each channel.

    Args:
        mean: One number a channel, in [0, 1].
        std: One number a channel.

    Shape: (B, C, H, W) float in [0, 1], or uint8 in [0, 255] -> (B, C, H, W) in the floating type of the module.

    Raises:
        BrickInputError: Another rank, number of channels, type or range. The range is looked at where that is free of
            a synchronisation: on the CPU, outside of compiled graphs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        # Not `torchvision.transforms.Normalize`: it looks at the values of std, which breaks export.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        channels = self.mean.shape[0]
        if image.ndim != 4 or image.shape[1] != channels:
            raise BrickInputError("image", f"a tensor (B, {channels}, H, W)", f"the shape {tuple(image.shape)}")
        if image.dtype == torch.uint8:
            image = image.to(self.mean.dtype) / 255
        elif not image.is_floating_point():
            raise BrickInputError(
                "image", "float in [0, 1] or uint8", str(image.dtype), "Convert it with .float() / 255."
            )
        elif image.device.type == "cpu" and not torch.compiler.is_compiling() and image.numel():
            low, high = (value.item() for value in torch.aminmax(image))
            if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
                hint = "Divide by 255, or pass uint8; the model normalises by itself."
                raise BrickInputError("image", "float in [0, 1]", f"values from {low:.4g} to {high:.4g}", hint)
        return (image.to(self.mean.dtype) - self.mean) / self.std
