"""The feature pyramid that a dense head reads, for any backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from brickyard.core.modules import BrickTrainable
from brickyard.core.specs import FeatureSpec
from brickyard.parts.necks import pyramid_spec
from brickyard.parts.registry import create_part


def pyramid_of(
    features: FeatureSpec, levels_of: Callable[[Sequence[int]], Sequence[int]]
) -> tuple[dict[str, Any], str, FeatureSpec]:
    """Provide a head with feature maps of increasing strides.

    Args:
        features: The backbone's feature maps.
        levels_of: From the strides of a pyramid to the indices of the maps that the head reads.

    Returns:
        The bricks to add to the head, none where the backbone's maps are a pyramid already; the name that the head
        reads; and the specification of the maps under that name.
    """
    spec = pyramid_spec(features)
    if spec == features:
        return {}, "features", features
    keep = list(levels_of(spec.strides))
    part = create_part("pyramid", channels=list(features.channels), strides=list(features.strides), keep=keep)
    kept = FeatureSpec(tuple(spec.channels[index] for index in keep), tuple(spec.strides[index] for index in keep))
    return {"pyramid": BrickTrainable(part, input_names=["features"], output_names=["./pyramid"])}, "./pyramid", kept
