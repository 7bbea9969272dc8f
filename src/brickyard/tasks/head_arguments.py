"""Arguments of a head's class by name: channels and sizes of the features that it reads, classes, the image size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_origin

from brickyard.core.names import Reference, parse_reference
from brickyard.core.specs import BLOCK_OUTPUTS, NORMED_FEATURES, BackboneSpec, FeatureSpec
from brickyard.errors import BrickGraphError, BrickMismatchError
from brickyard.tasks.blocks import NO_BLOCKS
from brickyard.tasks.task import HeadSpec
from brickyard.tasks.wiring import signature_of


def head_arguments(
    factory: Callable[..., Any], backbone: BackboneSpec, head: HeadSpec, reads: str = "features[-1]", **arguments: Any
) -> dict[str, Any]:
    """Return the arguments of a head's class, by the names in its signature.

    - `in_channels`, `in_strides`, `in_height`, `in_width`: of the map that `reads` selects, an int; of several maps, a
      list of int; for `embedding`, `in_channels` is its length.
    - `num_classes`, `labels`: the number of classes, and their names.
    - `image_size`: [H, W] in pixels, the default image size of the backbone.

    Heights and widths are those at that image size, H / stride rounded up, as in most backbones; a head that takes
    images of any size should use the shapes of its inputs instead.

    Args:
        factory: The head's class, or a function that returns the head; its signature is read.
        backbone: What the backbone provides; for a model, `model["backbone"].provides`.
        head: The name of the head, its classes and their names.
        reads: The input of the brick: `features[-1]`, `features[1:3]`, `features[2,5]`, `features` or `embedding`;
            `normed_features` in the same forms, if the backbone has transformer blocks.
        **arguments: Further arguments of the factory, which take precedence.

    Returns:
        Keyword arguments for `factory`; JSON values, so that `create_part` takes them, too.

    Raises:
        BrickGraphError: Nothing provides an argument.
        BrickMismatchError: The backbone has no such features, or an argument is annotated as one number where there are
            several, or the reverse.
    """
    location = f"Head '{head.name}' ({getattr(factory, '__name__', type(factory).__name__)})"
    available = {
        **_of_features(backbone, reads, location),
        "num_classes": head.num_classes,
        "labels": head.class_names,
        "image_size": list(backbone.input.size),
    }
    selected = dict(arguments)
    for name, parameter in signature_of(factory).parameters.items():
        if name in arguments or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in available:
            _check_annotation(location, parameter, available[name], reads)
            selected[name] = available[name]
        elif parameter.default is parameter.empty:
            raise BrickGraphError(
                f"{location}: nothing provides its argument '{name}'. Available: {', '.join(available)}."
            )
    return selected


def check_reads(backbone: BackboneSpec, reads: Sequence[Reference], location: str) -> None:
    """Check that the backbone has the feature maps, or values of transformer blocks, that these names select.

    Raises:
        BrickMismatchError: An index is out of range, or the backbone has no such values.
    """
    for read in reads:
        if read.name in BLOCK_OUTPUTS and read.name not in backbone.block_outputs:
            problem = "the backbone has no class token" if backbone.block_outputs else NO_BLOCKS
            raise BrickMismatchError(f"{location} cannot read '{read.name}'", [problem])
        if read.name in ("features", *BLOCK_OUTPUTS):
            _selected_levels(backbone.features, read, location)


def _of_features(backbone: BackboneSpec, reads: str, location: str) -> dict[str, Any]:
    read = parse_reference(reads, location)
    if read.name == "embedding":
        return {"in_channels": backbone.embedding}
    if read.name not in ("features", NORMED_FEATURES):
        raise BrickGraphError(
            f"{location} cannot read '{reads}': expected 'features' or '{NORMED_FEATURES}', with or without an index, "
            "or 'embedding'."
        )
    check_reads(backbone, [read], location)
    levels = _selected_levels(backbone.features, read, location)
    height, width = backbone.input.size
    strides = [backbone.features.strides[level] for level in levels]
    by_level = {
        "in_channels": [backbone.features.channels[level] for level in levels],
        "in_strides": strides,
        "in_height": [-(-height // stride) for stride in strides],
        "in_width": [-(-width // stride) for stride in strides],
    }
    return {name: values[0] if isinstance(read.index, int) else values for name, values in by_level.items()}


def _selected_levels(features: FeatureSpec, read: Reference, location: str) -> list[int]:
    try:
        selected = read.items(len(features.channels))
    except IndexError:
        selected = ()
    if not selected:
        problem = f"the backbone has {len(features.channels)} feature maps, of {list(features.channels)} channels"
        raise BrickMismatchError(f"{location} cannot read {read.name}[{read.index}]", [problem])
    return list(selected)


def _check_annotation(location: str, parameter: inspect.Parameter, value: Any, reads: str) -> None:
    annotation = parameter.annotation
    base = get_origin(annotation) or annotation
    wants_one = annotation is int
    wants_several = isinstance(base, type) and issubclass(base, Sequence)
    if (wants_one and isinstance(value, list)) or (wants_several and isinstance(value, int)):
        hint = f"read one map, as '{reads.partition('[')[0]}[-1]'" if wants_one else "read several, as 'features'"
        problem = f"'{parameter.name}' is annotated {annotation}, but '{reads}' provides {value}: {hint}"
        raise BrickMismatchError(f"{location} cannot read '{reads}'", [problem])
