"""Backbones: timm's models as they are, and torchvision's resnets without their classifier."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import timm
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.layers import to_2tuple
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg
from torch import Tensor, nn
from torchvision.models import ResNet

from brickyard.errors import BrickMismatchError, UnknownNameError, UnsafeBrickError

_FETCHING = ("cache_dir", "checkpoint_path")


@final
@dataclass(frozen=True)
class FeatureSpec:
    """The feature maps of a backbone, fine to coarse: map i is (B, channels[i], H / strides[i], W / strides[i])."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


@final
@dataclass(frozen=True)
class InputSpec:
    """The images that a backbone was trained on.

    Attributes:
        channels: C.
        size: (H, W) in pixels.
        fixed: Whether timm says that it takes no other size; some take others all the same.
        mean: One number a channel, in [0, 1].
        std: One number a channel.
        interpolation: How pictures are resized, "bicubic" or "bilinear".
        crop_pct: The part of the resized picture that the central crop keeps.
        crop_mode: timm's name of the crop: "center", "squash" or "border".
    """

    channels: int
    size: tuple[int, int]
    fixed: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str


@final
@dataclass(frozen=True)
class BackboneSpec:
    """What heads may count on.

    Attributes:
        features: Its feature maps.
        embedding: The length of its pooled vector.
        input: The images that it takes.
        num_classes: The classes of timm's own classifier, 0 if it has none.
    """

    features: FeatureSpec
    embedding: int
    input: InputSpec
    num_classes: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The specification that `dataclasses.asdict` wrote."""
        features, images = values["features"], values["input"]
        return cls(
            features=FeatureSpec(tuple(features["channels"]), tuple(features["strides"])),
            embedding=values["embedding"],
            input=InputSpec(
                channels=images["channels"],
                size=tuple(images["size"]),
                fixed=images["fixed"],
                mean=tuple(images["mean"]),
                std=tuple(images["std"]),
                interpolation=images["interpolation"],
                crop_pct=images["crop_pct"],
                crop_mode=images["crop_mode"],
            ),
            num_classes=values["num_classes"],
        )


@final
class TimmNames(Collection[str]):
    """The names of timm's models; a look-up does not list them."""

    def __contains__(self, name: object) -> bool:
        return bool(timm.is_model(str(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(timm.list_models())

    def __len__(self) -> int:
        return len(timm.list_models())


def timm_backbone(name: str, in_chans: int = 3, **options: Any) -> nn.Module:
    """A timm model without its classifier.

    Args:
        name: timm's name, with or without a weights tag.
        in_chans: Channels of the image.
        **options: Further arguments of `timm.create_model`, e.g. `drop_path_rate`, `img_size`.

    Raises:
        UnknownNameError: timm has no such model.
        BrickMismatchError: The model cannot return its feature maps.
        UnsafeBrickError: An option that would fetch weights from elsewhere; options also come from stored files.
    """
    foreign = sorted(option for option in options if option.startswith("pretrained") or option in _FETCHING)
    if foreign:
        raise UnsafeBrickError(f"Backbone '{name}': the options {foreign} would fetch weights from elsewhere.")
    if not timm.is_model(name.partition(".")[0]):
        raise UnknownNameError("backbone", name, TimmNames())
    model: nn.Module = timm.create_model(name, num_classes=0, in_chans=in_chans, **options)
    if not hasattr(model, "forward_intermediates"):
        raise BrickMismatchError(f"Backbone '{name}' cannot serve", ["it has no `forward_intermediates` in timm"])
    return model


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


def timm_spec(model: Any, in_chans: int = 3, **options: Any) -> BackboneSpec:
    """What timm knows of a model that `timm_backbone` made with these arguments."""
    config: dict[str, Any] = model.pretrained_cfg
    levels = [dict(level) for level in model.feature_info]
    return BackboneSpec(
        features=FeatureSpec(
            channels=tuple(level["num_chs"] for level in levels), strides=tuple(level["reduction"] for level in levels)
        ),
        embedding=int(model.head_hidden_size),
        input=InputSpec(
            channels=in_chans,
            size=to_2tuple(options.get("img_size", config["input_size"][1:])),
            fixed=bool(config["fixed_input_size"]) and not options.get("dynamic_img_size", False),
            mean=_for_channels(config["mean"], in_chans),
            std=_for_channels(config["std"], in_chans),
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
        ),
        num_classes=config["num_classes"],
    )


@final
@dataclass(frozen=True)
class TimmWeights:
    """timm's own pretrained weights of a model.

    Attributes:
        state: Those of the whole model.
        classifier: Those of its classifier alone, empty where that is more than one linear layer.
        num_classes: What the classifier tells apart, 0 where it is empty.
        labels: The names of its classes, None where timm does not know them.
    """

    state: dict[str, Tensor]
    classifier: dict[str, Tensor]
    num_classes: int
    labels: tuple[str, ...] | None


def timm_pretrained(name: str, in_chans: int = 3, **options: Any) -> TimmWeights:
    """Fetch timm's weights; the arguments are those of `timm_backbone`, and timm adapts the first convolution."""
    model = timm.create_model(name, pretrained=True, in_chans=in_chans, **options)
    classifier = model.get_classifier()
    subset = infer_imagenet_subset(model)
    linear = isinstance(classifier, nn.Linear)
    return TimmWeights(
        state=model.state_dict(),
        classifier=classifier.state_dict() if linear else {},
        num_classes=classifier.out_features if linear else 0,
        labels=tuple(ImageNetInfo(subset).label_descriptions()) if subset else None,
    )


def timm_tags(name: str) -> list[str]:
    """The tags of timm's own weights for a backbone, the default first."""
    return [full.partition(".")[2] for full in get_arch_pretrained_cfgs(name)]


def timm_has_weights(name: str) -> bool:
    """Whether timm has weights for this name, with or without a tag."""
    config = get_pretrained_cfg(name)
    return config is not None and bool(config.has_weights)


def _for_channels(statistics: Sequence[float], channels: int) -> tuple[float, ...]:
    """One number a channel: repeated, as timm repeats the weights of the first convolution."""
    return tuple(statistics[channel % len(statistics)] for channel in range(channels))


@final
class BackboneResnet(nn.Module):
    """A torchvision resnet up to its last feature map, (B, 3, H, W) -> (B, n_backbone_features, H / 32, W / 32).

    Args:
        resnet: It stays as it is; its layers are shared, under torchvision's names.
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
