"""Normalise images as the backbone expects them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_OVERSHOOT = 0.1  # bicubic resizing may exceed [0, 1] by this much


@final
class Preprocessor(nn.Module):
    """Normalise images: `(image - mean) / std` per channel.

    Args:
        mean: The mean of each channel, in [0, 1].
        std: The standard deviation of each channel.

    Shape: (B, C, H, W) float in [0, 1], or uint8 in [0, 255] -> (B, C, H, W) in the floating dtype of the module. With
    one channel it takes RGB images as well, which become the luma of ITU-R 601-2, as Pillow converts them.

    Raises:
        BrickInputError: The shape, number of channels, dtype or range is wrong. The range is checked only on the CPU
            and outside of compiled graphs, where this needs no synchronisation.

    Example:
        >>> Preprocessor(mean=[0.5], std=[0.5])(torch.ones(1, 1, 2, 2))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        # torchvision.transforms.Normalize branches on the values of std, which breaks torch.export.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        channels = self.mean.shape[0]
        is_colour = channels == 1 and image.ndim == 4 and image.shape[1] == 3
        if image.ndim != 4 or (image.shape[1] != channels and not is_colour):
            raise BrickInputError("image", f"a tensor (B, {channels}, H, W)", f"the shape {tuple(image.shape)}")
        if image.dtype == torch.uint8:
            image = image.to(self.mean.dtype) / 255
        elif not image.is_floating_point():
            raise BrickInputError(
                "image", "float in [0, 1] or uint8", str(image.dtype), "Convert it with image.float() / 255."
            )
        elif image.device.type == "cpu" and not torch.compiler.is_compiling() and image.numel():
            low, high = (value.item() for value in torch.aminmax(image))
            if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
                hint = "Divide by 255, or pass uint8. Do not normalise: the model does."
                raise BrickInputError("image", "float in [0, 1]", f"values from {low:.4g} to {high:.4g}", hint)
        image = image.to(self.mean.dtype)
        if is_colour:
            image = 0.299 * image[:, 0:1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:3]
        return (image - self.mean) / self.std
