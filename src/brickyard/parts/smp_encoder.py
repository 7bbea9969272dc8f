"""Change a model of timm so that it computes what the encoder of that name in segmentation_models.pytorch (smp) does.

smp (https://github.com/qubvel-org/segmentation_models.pytorch) has resnets and densenets of its own, whose tensors are
timm's. They differ from timm in how they dilate, and in which maps of a densenet they give to a decoder.
"""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn
from torch.nn.functional import relu

from brickyard.errors import BrickMismatchError

_STAGES = {"layer3": 16, "layer4": 32}  # the stages of a resnet that can be dilated, and their strides


def as_smp_encoder(model: Any, name: str, output_stride: int) -> nn.Module:
    """Return a resnet or densenet of timm that computes what smp's encoder of the same name does.

    Args:
        model: A model of timm that was just built; its layers are changed or taken over.
        name: Its name, for errors.
        output_stride: The stride of the last map: 8, 16, or 32 for no dilation. Densenets have 32 only.

    Raises:
        BrickMismatchError: Another model, or another stride.
    """
    if output_stride not in (8, 16, 32):
        raise BrickMismatchError(f"Backbone '{name}' cannot be smp's", [f"output_stride 8, 16 or 32: {output_stride}"])
    if hasattr(model, "features") and hasattr(model.features, "denseblock1") and output_stride == 32:
        return SmpDenseNet(model)
    if all(hasattr(model, stage) for stage in _STAGES):
        _dilate(model, output_stride)
        return model  # type: ignore[no-any-return]
    problem = "smp has it not among its resnets, or densenets without dilation"
    raise BrickMismatchError(f"Backbone '{name}' cannot be smp's", [problem])


def _dilate(model: Any, output_stride: int) -> None:
    """Dilate every convolution of the last stages of a resnet, where timm dilates the first block of a stage less."""
    for stage, stride in _STAGES.items():
        rate = stride // output_stride
        if rate > 1:
            for module in getattr(model, stage).modules():
                if isinstance(module, nn.Conv2d):
                    height, width = module.kernel_size
                    module.stride, module.dilation = (1, 1), (rate, rate)
                    module.padding = (height // 2 * rate, width // 2 * rate)
    for level in model.feature_info:
        level["reduction"] = min(level["reduction"], output_stride)


@final
class SmpDenseNet(nn.Module):
    """A densenet of timm whose maps are those of smp: after the norm that follows a block, where timm's are before it.

    The last map has no ReLU after its norm; the embedding is timm's.

    Args:
        model: timm's densenet without classifier; its layers are shared, under timm's names.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.features = model.features
        self.features.norm5.act = nn.Identity()
        self.global_pool = model.global_pool
        self.feature_info, self.pretrained_cfg = model.feature_info, model.pretrained_cfg
        self.head_hidden_size = model.num_features

    def forward_intermediates(self, x: Tensor, output_fmt: str = "NCHW") -> tuple[Tensor, list[Tensor]]:
        """Return the last map and all maps, (B, C_i, H / s_i, W / s_i), as timm's models do."""
        maps = []
        for name, layer in self.features.named_children():
            if name.startswith("transition"):
                x = layer.norm(x)
                maps.append(x)
                x = layer.pool(layer.conv(x))
            else:
                x = layer(x)
                if name in ("norm0", "norm5"):
                    maps.append(x)
        return x, maps

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the pooled vector, (B, C)."""
        return self.global_pool(relu(x))  # type: ignore[no-any-return]
