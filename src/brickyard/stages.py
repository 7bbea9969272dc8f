"""One collection for each stage, where stages must not share metrics."""

from __future__ import annotations

from torch import nn

from brickyard.collection import BrickCollection
from brickyard.tags import Stage


def per_stage_brick_collections(collection: BrickCollection) -> nn.ModuleDict:
    """A collection for each of training, validation and test: the modules are shared, the metrics are not.

    So that a validation in the middle of a training epoch leaves the epoch's metrics alone. The keys are stage names:
    "TRAIN", "VALIDATION" and "TEST".
    """
    stages = (Stage.TRAIN, Stage.VALIDATION, Stage.TEST)
    return nn.ModuleDict({stage.name: BrickCollection(collection.to_dict()) for stage in stages})
