"""The pyramid that dense heads read, whatever the backbone."""

from __future__ import annotations

from typing import Any

from brickyard.modules import BrickTrainable
from brickyard.parts.backbones import FeatureSpec
from brickyard.parts.necks import pyramid_spec
from brickyard.parts.registry import create_part


def pyramid_of(features: FeatureSpec) -> tuple[dict[str, Any], str, FeatureSpec]:
    """Growing strides for a head.

    Returns:
        The bricks to add to the head, none where the backbone's maps are a pyramid already; the name that the head
        reads; and the specification of the maps under that name.
    """
    spec = pyramid_spec(features)
    if spec == features:
        return {}, "features", features
    part = create_part("pyramid", channels=list(features.channels), strides=list(features.strides))
    return {"pyramid": BrickTrainable(part, input_names=["features"], output_names=["./pyramid"])}, "./pyramid", spec
