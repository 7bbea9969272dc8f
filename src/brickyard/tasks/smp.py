"""Which maps of a backbone a decoder of segmentation_models.pytorch (smp) takes."""

from __future__ import annotations

from typing import Any

from brickyard.core.specs import BackboneSpec, FeatureSpec
from brickyard.errors import BrickMismatchError

# smp's names of its decoders in lower case.
ARCHITECTURES = (
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "dpt",
)
_DEPTHS = {"pspnet": 3, "dpt": 4}  # the number of maps below the image; that of all others is 5


def smp_maps(architecture: str, backbone: BackboneSpec) -> dict[str, Any]:
    """Return the arguments `levels`, `channels` and `strides` of a decoder of smp with smp's defaults.

    Args:
        architecture: One of `ARCHITECTURES`.
        backbone: What the backbone provides.

    Raises:
        BrickMismatchError: The backbone has no such maps.
    """
    maps, depth = backbone.features, _DEPTHS.get(architecture, 5)
    first = maps.strides[:2]
    if architecture == "dpt":
        levels = [len(maps.strides) * index // depth - 1 for index in range(1, depth + 1)]
        if len(set(maps.strides)) == 1 and levels[0] >= 0:
            return _arguments(maps, levels)
    elif first == (1, 2):
        return _arguments(maps, range(min(depth + 1, len(maps.strides))))
    elif first == (2, 4):
        return _arguments(maps, range(min(depth, len(maps.strides))), image=backbone.input.channels)
    elif first == (4, 8):
        levels = [*range(min(depth - 1, len(maps.strides)))]
        return _arguments(maps, levels, image=backbone.input.channels, has_empty=True)
    expected = "maps of one stride, as a ViT has" if architecture == "dpt" else "maps that begin with stride 1, 2 or 4"
    problem = f"strides: expected {expected}, and twice that, found {list(maps.strides)}"
    raise BrickMismatchError(f"smp's decoder '{architecture}' does not fit this backbone", [problem])


def _arguments(maps: FeatureSpec, levels: Any, image: int | None = None, has_empty: bool = False) -> dict[str, Any]:
    before: list[tuple[str, int, int]] = []
    if image is not None:
        before.append(("image", image, 1))
    if has_empty:
        before.append(("empty", 0, 2))
    return {
        "levels": [*(name for name, _, _ in before), *levels],
        "channels": [*(channels for _, channels, _ in before), *(maps.channels[level] for level in levels)],
        "strides": [*(stride for _, _, stride in before), *(maps.strides[level] for level in levels)],
    }
