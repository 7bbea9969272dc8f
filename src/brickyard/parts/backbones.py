"""Backbones: timm's models as they are, and torchvision's resnets without their classifier.

timm is imported in functions, because that takes about two seconds and most of the package does without it.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn
from torchvision.models import ResNet

from brickyard.core.specs import BLOCK_OUTPUTS, NORMED_FEATURES, BackboneSpec, FeatureSpec, InputSpec
from brickyard.errors import BrickMismatchError, UnknownNameError, UnsafeBrickError
from brickyard.parts.smp_encoder import as_smp_encoder

_DOWNLOADING = ("cache_dir", "checkpoint_path")


@final
class TimmNames(Collection[str]):
    """The names of timm's models; a lookup does not list them."""

    def __contains__(self, name: object) -> bool:
        import timm  # noqa: PLC0415

        return bool(timm.is_model(str(name)))

    def __iter__(self) -> Iterator[str]:
        import timm  # noqa: PLC0415

        return iter(timm.list_models())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def timm_backbone(name: str, in_chans: int = 3, smp_output_stride: int | None = None, **options: Any) -> nn.Module:
    """Build a timm model without its classifier, with fresh weights.

    Args:
        name: timm's name, with or without a weights tag.
        in_chans: The number of channels of the image.
        smp_output_stride: Build a resnet or densenet that computes what segmentation_models.pytorch's encoder of that
            name does, with this stride of its last map; see `as_smp_encoder`.
        **options: Further arguments of `timm.create_model`, such as `drop_path_rate` or `img_size`.

    Raises:
        UnknownNameError: timm has no such model.
        BrickMismatchError: The model cannot return its feature maps.
        UnsafeBrickError: An option that would download weights; options may come from stored files.
    """
    import timm  # noqa: PLC0415

    unsafe = sorted(option for option in options if option.startswith("pretrained") or option in _DOWNLOADING)
    if unsafe:
        raise UnsafeBrickError(f"Backbone '{name}': the options {unsafe} would download weights.")
    if name.partition(".")[0] not in TimmNames():
        raise UnknownNameError("backbone", name, TimmNames())
    model: nn.Module = timm.create_model(name, num_classes=0, in_chans=in_chans, **options)
    if smp_output_stride is not None:
        model = as_smp_encoder(model, name, smp_output_stride)
    if not hasattr(model, "forward_intermediates"):
        raise BrickMismatchError(f"Backbone '{name}' is not supported", ["it has no `forward_intermediates` in timm"])
    return model


def timm_spec(model: Any, in_chans: int = 3, **options: Any) -> BackboneSpec:
    """Describe a model that `timm_backbone` built with these arguments."""
    config: dict[str, Any] = model.pretrained_cfg
    levels = [dict(level) for level in model.feature_info]
    size = options.get("img_size", config["input_size"][1:])
    height, width = (size, size) if isinstance(size, int) else size
    return BackboneSpec(
        features=FeatureSpec(
            channels=tuple(level["num_chs"] for level in levels), strides=tuple(level["reduction"] for level in levels)
        ),
        embedding=int(model.head_hidden_size),
        input=InputSpec(
            channels=in_chans,
            size=(height, width),
            fixed=bool(config["fixed_input_size"]) and not options.get("dynamic_img_size", False),
            mean=_for_channels(config["mean"], in_chans),
            std=_for_channels(config["std"], in_chans),
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
        ),
        num_classes=config["num_classes"],
        block_outputs=_block_outputs(model),
    )


def _block_outputs(model: Any) -> tuple[str, ...]:
    """Return the values that a timm model has for each transformer block, none for a model without such blocks."""
    # timm has no common class of these models: they have blocks and a final norm over channels, and can return tokens.
    parameters = inspect.signature(model.forward_intermediates).parameters
    children = {name for name, _ in model.named_children()}
    if "return_prefix_tokens" not in parameters or not {"blocks", "norm"} <= children:
        return ()
    return BLOCK_OUTPUTS if getattr(model, "cls_token", None) is not None else (NORMED_FEATURES,)


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1000 classes of ImageNet-1k, as timm spells them."""
    from timm.data import ImageNetInfo  # noqa: PLC0415

    return tuple(ImageNetInfo("imagenet-1k").label_descriptions())


@final
@dataclass(frozen=True)
class TimmWeights:
    """timm's pretrained weights of a model.

    Attributes:
        state: The state of the whole model.
        classifier: The state of its classifier, empty if that is not a single linear layer.
        num_classes: The number of classes of the classifier, 0 if `classifier` is empty.
        labels: The class names, None if timm does not have them.
    """

    state: dict[str, Tensor]
    classifier: dict[str, Tensor]
    num_classes: int
    labels: tuple[str, ...] | None


def timm_pretrained(
    name: str, in_chans: int = 3, *, cache_dir: str | os.PathLike[str] | None = None, **options: Any
) -> TimmWeights:
    """Download timm's weights.

    Args:
        name: As for `timm_backbone`.
        in_chans: As for `timm_backbone`; timm adapts the first convolution.
        cache_dir: The folder of the cache of huggingface_hub, None for the default.
        **options: As for `timm_backbone`.
    """
    import timm  # noqa: PLC0415
    from timm.data import ImageNetInfo, infer_imagenet_subset  # noqa: PLC0415

    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    model = timm.create_model(name, pretrained=True, in_chans=in_chans, cache_dir=cache, **options)
    classifier = model.get_classifier()
    subset = infer_imagenet_subset(model)
    linear = isinstance(classifier, nn.Linear)
    return TimmWeights(
        state=model.state_dict(),
        classifier=classifier.state_dict() if linear else {},
        num_classes=classifier.out_features if linear else 0,
        labels=tuple(ImageNetInfo(subset).label_descriptions()) if subset else None,
    )


def timm_modules() -> dict[str, dict[str, bool]]:
    """Return the backbones of each module of timm, sorted, and whether timm has weights for them."""
    import timm  # noqa: PLC0415

    modules = {}
    for module in timm.list_modules():
        trained = {name.partition(".")[0] for name in timm.list_models(module=module, pretrained=True)}
        modules[module] = {name: name in trained for name in timm.list_models(module=module)}
    return modules


def timm_tags(name: str) -> list[str]:
    """Return the tags of timm's weights for a backbone, the default first."""
    from timm.models import get_arch_pretrained_cfgs  # noqa: PLC0415

    return [full_name.partition(".")[2] for full_name in get_arch_pretrained_cfgs(name)]


def timm_hub_repo(name: str) -> str | None:
    """Return the repo on the Hub, `user/repo`, of timm's weights of a name; None if they are elsewhere."""
    from timm.models import get_pretrained_cfg  # noqa: PLC0415

    config = get_pretrained_cfg(name)
    return config.hf_hub_id.partition("@")[0] if config is not None and config.hf_hub_id else None


def timm_has_weights(name: str) -> bool:
    """Return whether timm has weights for a name, with or without a tag."""
    from timm.models import get_pretrained_cfg  # noqa: PLC0415

    config = get_pretrained_cfg(name)
    return config is not None and bool(config.has_weights)


def adapt_to_channels(model: Any, state: dict[str, Tensor], in_chans: int) -> dict[str, Tensor]:
    """Return a timm model's state with its first convolutions adapted from 3 channels to `in_chans`, as timm does."""
    from timm.models import adapt_input_conv  # noqa: PLC0415

    first = model.pretrained_cfg["first_conv"]
    keys = [f"{convolution}.weight" for convolution in ([first] if isinstance(first, str) else first)]
    return {**state, **{key: adapt_input_conv(in_chans, state[key]) for key in keys}}


def _for_channels(statistics: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one value per channel, repeated as timm repeats the weights of the first convolution."""
    return tuple(statistics[channel % len(statistics)] for channel in range(channels))


@final
class BackboneResnet(nn.Module):
    """A torchvision resnet up to its last feature map, (B, 3, H, W) -> (B, n_backbone_features, H / 32, W / 32).

    Args:
        resnet: The model, which is left untouched; its layers are shared, under torchvision's names.
    """

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        for name, layer in resnet.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, layer)
        self.n_backbone_features = resnet.fc.in_features

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.children():
            image = layer(image)
        return image
