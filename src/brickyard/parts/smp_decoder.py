"""The decoders of segmentation_models.pytorch (smp), as parts that hold smp's own modules.

Their tensors have smp's names, so that weights go from smp to a brick and back.
https://github.com/qubvel-org/segmentation_models.pytorch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from brickyard.errors import BrickInputError, MissingExtraError, UnknownNameError, UnsafeBrickError

try:
    from segmentation_models_pytorch.base import SegmentationHead
    from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
    from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
    from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
    from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
    from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
    from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
    from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
    from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
except ImportError:
    raise MissingExtraError("A decoder of segmentation_models.pytorch", "importers") from None

IMAGE, EMPTY = "image", "empty"  # maps of smp that no backbone has
Level = int | Literal["image", "empty"]
Norm = bool | str | Mapping[str, Any]
_NORMS = ("batchnorm", "identity", "layernorm", "instancenorm")
_NORM_ARGUMENTS = {"type", "eps", "momentum", "affine", "track_running_stats", "elementwise_affine", "bias"}
_INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
_DOUBLING = ("unetplusplus", "manet", "linknet", "fpn")  # they enlarge each map twice to add or append the one before
_CHANNELS = (256, 128, 64, 32, 16)
_RATES = (12, 24, 36)


@final
class SmpDecoder(nn.Module):
    """A decoder of smp with its segmentation head.

    Args:
        architecture: smp's name in lower case: "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet",
            "deeplabv3", "deeplabv3plus", "pan", "upernet", "segformer" or "dpt".
        levels: The maps that smp's decoder takes, fine to coarse: indices of the backbone's maps, "image" for the
            normalised image, "empty" for a map without channels, which smp has in place of stride 2 where a backbone
            begins with stride 4.
        channels: The channels of these maps.
        strides: The strides of these maps.
        num_classes: K.
        is_binary: Whether K = 2 classes have a single output of smp's decoder, whose sigmoid is the probability of the
            second class. The logits are then 0 and this output, whose softmax has the same probabilities. Another K
            has an output for each class.
        **options: Further arguments of smp's model, such as `decoder_channels`; JSON values.

    Shape: the normalised image (B, C, H, W), the maps of the backbone, fine to coarse -> logits (B, K, h, w), which
    have the size of the image with the upsampling that smp has by default. All but "unet" take images whose height and
    width are divisible by the largest stride.

    Raises:
        UnknownNameError: No such architecture.
        UnsafeBrickError: A norm that would need other code, or a device.
        BrickInputError: The architecture cannot be built for these maps. At the call: an image of another size.
    """

    def __init__(
        self,
        architecture: str,
        levels: Sequence[Level],
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        is_binary: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if architecture not in _BUILDERS:
            raise UnknownNameError("decoder of smp", architecture, _BUILDERS)
        if not len(levels) == len(channels) == len(strides):
            found = f"{len(levels)}, {len(channels)} and {len(strides)}"
            raise BrickInputError(f"smp's {architecture}", "as many levels as channels and strides", found)
        if architecture in _DOUBLING and any(2 * fine != coarse for fine, coarse in pairwise(strides)):
            expected = "maps of which each has half the size of the one before, so no dilation"
            raise BrickInputError(f"smp's {architecture}", expected, f"strides {list(strides)}")
        _check_norm(options.get("decoder_use_norm", "batchnorm"))
        mode = options.get("decoder_interpolation", "nearest")
        if mode not in _INTERPOLATIONS:
            raise BrickInputError(f"smp's {architecture}", f"decoder_interpolation of {_INTERPOLATIONS}", f"{mode!r}")
        self.levels = list(levels)
        self.is_binary = is_binary
        self._has_one_output = is_binary and num_classes == 2
        self._architecture = architecture
        self._multiple = 1 if architecture == "unet" else strides[-1]
        build = _BUILDERS[architecture]
        self.decoder, self.segmentation_head = build(
            list(channels), list(strides), 1 if self._has_one_output else num_classes, **options
        )
        if architecture not in ("deeplabv3", "deeplabv3plus"):  # which smp leaves as torch initialises them
            initialize_decoder(self.decoder)
            initialize_head(self.segmentation_head)

    def forward(self, image: Tensor, features: Sequence[Tensor]) -> Tensor:
        if not torch.compiler.is_compiling():
            self._check_size(image)
        maps = [self._map(level, image, features) for level in self.levels]
        decoded = self.decoder(maps, [None] * len(maps)) if self._architecture == "dpt" else self.decoder(maps)
        logits: Tensor = self.segmentation_head(decoded)
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if self._has_one_output else logits

    def _map(self, level: Level, image: Tensor, features: Sequence[Tensor]) -> Tensor:
        if level == IMAGE:
            return image
        if level == EMPTY:
            return image.new_empty(image.shape[0], 0, image.shape[2] // 2, image.shape[3] // 2)
        return features[int(level)]

    def _check_size(self, image: Tensor) -> None:
        height, width = image.shape[-2:]
        if height % self._multiple or width % self._multiple:
            expected = f"images whose height and width are multiples of {self._multiple}"
            raise BrickInputError(f"smp's {self._architecture}", expected, f"{height}x{width}", "Resize or pad them.")


def _check_norm(norm: Any) -> None:
    name = norm.get("type") if isinstance(norm, Mapping) else norm
    arguments = set(norm) if isinstance(norm, Mapping) else set()
    is_known = isinstance(name, bool) or (isinstance(name, str) and name.lower() in _NORMS)
    if not is_known or not arguments <= _NORM_ARGUMENTS:
        raise UnsafeBrickError(
            f"smp's decoder: expected a norm of {_NORMS} with arguments of {sorted(_NORM_ARGUMENTS)}, "
            f"found {str(norm)[:200]}."
        )


Built = tuple[nn.Module, nn.Module]  # decoder and segmentation head


def _unet(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_use_norm: Norm = "batchnorm",
    decoder_channels: Sequence[int] = _CHANNELS,
    decoder_attention_type: str | None = None,
    decoder_interpolation: str = "nearest",
) -> Built:
    decoder = UnetDecoder(
        encoder_channels=channels,
        decoder_channels=decoder_channels,
        n_blocks=len(channels) - 1,
        use_norm=decoder_use_norm,
        attention_type=decoder_attention_type,
        interpolation_mode=decoder_interpolation,
    )
    return decoder, SegmentationHead(decoder_channels[-1], outputs)


def _unetplusplus(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_use_norm: Norm = "batchnorm",
    decoder_channels: Sequence[int] = _CHANNELS,
    decoder_attention_type: str | None = None,
    decoder_interpolation: str = "nearest",
) -> Built:
    decoder = UnetPlusPlusDecoder(
        encoder_channels=channels,
        decoder_channels=decoder_channels,
        n_blocks=len(channels) - 1,
        use_norm=decoder_use_norm,
        attention_type=decoder_attention_type,
        interpolation_mode=decoder_interpolation,
    )
    return decoder, SegmentationHead(decoder_channels[-1], outputs)


def _manet(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_use_norm: Norm = "batchnorm",
    decoder_channels: Sequence[int] = _CHANNELS,
    decoder_pab_channels: int = 64,
    decoder_interpolation: str = "nearest",
) -> Built:
    decoder = MAnetDecoder(
        encoder_channels=channels,
        decoder_channels=decoder_channels,
        n_blocks=len(channels) - 1,
        use_norm=decoder_use_norm,
        pab_channels=decoder_pab_channels,
        interpolation_mode=decoder_interpolation,
    )
    return decoder, SegmentationHead(decoder_channels[-1], outputs)


def _linknet(channels: list[int], strides: list[int], outputs: int, *, decoder_use_norm: Norm = "batchnorm") -> Built:
    width = 32  # the channels of smp's last block
    decoder = LinknetDecoder(
        encoder_channels=channels, n_blocks=len(channels) - 1, prefinal_channels=width, use_norm=decoder_use_norm
    )
    return decoder, SegmentationHead(width, outputs, kernel_size=1)


def _fpn(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_pyramid_channels: int = 256,
    decoder_segmentation_channels: int = 128,
    decoder_merge_policy: str = "add",
    decoder_dropout: float = 0.2,
    decoder_interpolation: str = "nearest",
    upsampling: int = 4,
) -> Built:
    decoder = FPNDecoder(
        encoder_channels=channels,
        encoder_depth=len(channels) - 1,
        pyramid_channels=decoder_pyramid_channels,
        segmentation_channels=decoder_segmentation_channels,
        dropout=decoder_dropout,
        merge_policy=decoder_merge_policy,
        interpolation_mode=decoder_interpolation,
    )
    return decoder, SegmentationHead(decoder.out_channels, outputs, kernel_size=1, upsampling=upsampling)


def _pspnet(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    psp_out_channels: int = 512,
    decoder_use_norm: Norm = "batchnorm",
    psp_dropout: float = 0.2,
    upsampling: int = 8,
) -> Built:
    decoder = PSPDecoder(
        encoder_channels=channels, use_norm=decoder_use_norm, out_channels=psp_out_channels, dropout=psp_dropout
    )
    return decoder, SegmentationHead(psp_out_channels, outputs, upsampling=upsampling)


def _deeplabv3(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_channels: int = 256,
    decoder_atrous_rates: Sequence[int] = _RATES,
    decoder_aspp_separable: bool = False,
    decoder_aspp_dropout: float = 0.5,
    upsampling: int | None = None,
) -> Built:
    decoder = DeepLabV3Decoder(
        in_channels=channels[-1],
        out_channels=decoder_channels,
        atrous_rates=decoder_atrous_rates,
        aspp_separable=decoder_aspp_separable,
        aspp_dropout=decoder_aspp_dropout,
    )
    return decoder, SegmentationHead(decoder_channels, outputs, kernel_size=1, upsampling=upsampling or strides[-1])


def _deeplabv3plus(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_channels: int = 256,
    decoder_atrous_rates: Sequence[int] = _RATES,
    decoder_aspp_separable: bool = True,
    decoder_aspp_dropout: float = 0.5,
    upsampling: int = 4,
) -> Built:
    if strides[-1] not in (8, 16):
        hint = "Build the backbone with output_stride=16."
        raise BrickInputError("smp's deeplabv3plus", "a last map of stride 8 or 16", f"{strides[-1]}", hint)
    decoder = DeepLabV3PlusDecoder(
        encoder_channels=channels,
        encoder_depth=len(channels) - 1,
        out_channels=decoder_channels,
        atrous_rates=decoder_atrous_rates,
        output_stride=strides[-1],
        aspp_separable=decoder_aspp_separable,
        aspp_dropout=decoder_aspp_dropout,
    )
    return decoder, SegmentationHead(decoder_channels, outputs, kernel_size=1, upsampling=upsampling)


def _pan(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_channels: int = 32,
    decoder_interpolation: str = "bilinear",
    upsampling: int = 4,
) -> Built:
    decoder = PANDecoder(
        encoder_channels=channels,
        encoder_depth=len(channels) - 1,
        decoder_channels=decoder_channels,
        interpolation_mode=decoder_interpolation,
    )
    return decoder, SegmentationHead(decoder_channels, outputs, upsampling=upsampling)


def _upernet(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_channels: int = 256,
    decoder_use_norm: Norm = "batchnorm",
    upsampling: int = 4,
) -> Built:
    decoder = UPerNetDecoder(
        encoder_channels=channels,
        encoder_depth=len(channels) - 1,
        decoder_channels=decoder_channels,
        use_norm=decoder_use_norm,
    )
    return decoder, SegmentationHead(decoder_channels, outputs, kernel_size=1, upsampling=upsampling)


def _segformer(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_segmentation_channels: int = 256,
    upsampling: int = 4,
) -> Built:
    decoder = SegformerDecoder(
        encoder_channels=channels,
        encoder_depth=len(channels) - 1,
        segmentation_channels=decoder_segmentation_channels,
    )
    return decoder, SegmentationHead(decoder_segmentation_channels, outputs, kernel_size=1, upsampling=upsampling)


def _dpt(
    channels: list[int],
    strides: list[int],
    outputs: int,
    *,
    decoder_readout: str = "ignore",
    decoder_intermediate_channels: Sequence[int] = (256, 512, 1024, 1024),
    decoder_fusion_channels: int = 256,
) -> Built:
    decoder = DPTDecoder(
        encoder_out_channels=channels,
        encoder_output_strides=strides,
        encoder_has_prefix_tokens=False,
        readout=decoder_readout,
        intermediate_channels=decoder_intermediate_channels,
        fusion_channels=decoder_fusion_channels,
    )
    return decoder, DPTSegmentationHead(decoder_fusion_channels, outputs)


_BUILDERS: Mapping[str, Callable[..., Built]] = MappingProxyType(
    {
        "unet": _unet,
        "unetplusplus": _unetplusplus,
        "manet": _manet,
        "linknet": _linknet,
        "fpn": _fpn,
        "pspnet": _pspnet,
        "deeplabv3": _deeplabv3,
        "deeplabv3plus": _deeplabv3plus,
        "pan": _pan,
        "upernet": _upernet,
        "segformer": _segformer,
        "dpt": _dpt,
    }
)
