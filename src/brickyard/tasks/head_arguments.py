"""What a head's class may ask for: channels and sizes of the features that it reads, classes, the image's size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_origin

from brickyard.core.names import Reference, parse_reference
from brickyard.core.specs import BackboneSpec, FeatureSpec
from brickyard.errors import BrickGraphError, BrickMismatchError
from brickyard.tasks.task import HeadSpec
from brickyard.tasks.wiring import signature_of


def head_arguments(
    factory: Callable[..., Any], backbone: BackboneSpec, head: HeadSpec, reads: str = "features[-1]", **own: Any
) -> dict[str, Any]:
    """The arguments that a head's class asks for, by their names.

    | argument                                           | is |
    |----------------------------------------------------|---|
    | `in_channels`, `in_strides`, `in_height`, `in_width` | of the map that `reads` picks, an int; of several maps, a \
list of int; for `embedding`, `in_channels` is its length |
    | `num_classes`, `labels`                            | how many classes, and their names |
    | `image_size`                                       | [H, W] in pixels of the images that the backbone is for |

    Heights and widths are those at that image size, H / stride rounded up, which is what most backbones make; a head
    that takes images of any size goes by the shapes that it is given.

    Args:
        factory: The head's class, or a function that makes it; its signature is read.
        backbone: What is there. That of a model is `model["backbone"].provides`.
        head: Its name, classes and their names.
        reads: What the brick will read: `features[-1]`, `features[1:3]`, `features` or `embedding`.
        **own: Further arguments of the factory; these go first.

    Returns:
        Keyword arguments for `factory`; JSON values, so that they do for `create_part`, too.

    Raises:
        BrickGraphError: An argument that nothing provides.
        BrickMismatchError: No such features, or an argument annotated as one number where there are several, or the
            other way round.
    """
    location = f"Head '{head.name}' ({getattr(factory, '__name__', type(factory).__name__)})"
    offered = {
        **_of_features(backbone, reads, location),
        "num_classes": head.num_classes,
        "labels": head.class_names,
        "image_size": list(backbone.input.size),
    }
    found = dict(own)
    for name, parameter in signature_of(factory).parameters.items():
        if name in own or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in offered:
            _check_annotation(location, parameter, offered[name], reads)
            found[name] = offered[name]
        elif parameter.default is parameter.empty:
            raise BrickGraphError(
                f"{location}: nothing provides its argument '{name}'. There are: {', '.join(offered)}."
            )
    return found


def check_reads(backbone: BackboneSpec, reads: Sequence[Reference], location: str) -> None:
    """Refuse names that pick feature maps which the backbone has not.

    Raises:
        BrickMismatchError: There is none of such a place.
    """
    for read in reads:
        if read.name == "features":
            _picked(backbone.features, read, location)


def _of_features(backbone: BackboneSpec, reads: str, location: str) -> dict[str, Any]:
    read = parse_reference(reads, location)
    if read.name == "embedding":
        return {"in_channels": backbone.embedding}
    if read.name != "features":
        raise BrickGraphError(
            f"{location} cannot read '{reads}': expected 'features' with or without index, 'embedding'."
        )
    levels = _picked(backbone.features, read, location)
    height, width = backbone.input.size
    strides = [backbone.features.strides[level] for level in levels]
    several = {
        "in_channels": [backbone.features.channels[level] for level in levels],
        "in_strides": strides,
        "in_height": [-(-height // stride) for stride in strides],
        "in_width": [-(-width // stride) for stride in strides],
    }
    return {name: values[0] if isinstance(read.index, int) else values for name, values in several.items()}


def _picked(features: FeatureSpec, read: Reference, location: str) -> list[int]:
    levels = list(range(len(features.channels)))
    try:
        found = [levels[read.index]] if isinstance(read.index, int) else levels[read.index or slice(None)]
    except IndexError:
        found = []
    if not found:
        there = f"the backbone has {len(levels)} feature maps, of {list(features.channels)} channels"
        index = read.index if isinstance(read.index, int) else f"{read.index}"
        raise BrickMismatchError(f"{location} cannot read features[{index}]", [there])
    return found


def _check_annotation(location: str, parameter: inspect.Parameter, value: Any, reads: str) -> None:
    annotation = parameter.annotation
    provenance = get_origin(annotation) or annotation
    wants_one = annotation is int
    is_several = isinstance(provenance, type) and issubclass(provenance, Sequence)
    if (wants_one and isinstance(value, list)) or (is_several and isinstance(value, int)):
        way = f"read one map, as '{reads.partition('[')[0]}[-1]'" if wants_one else "read several, as 'features'"
        found = f"'{parameter.name}' is annotated {annotation}, but '{reads}' gives {value}: {way}"
        raise BrickMismatchError(f"{location} cannot read '{reads}'", [found])
