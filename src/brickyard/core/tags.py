"""Tags that select bricks in a call, and the stages of a model's use."""

from __future__ import annotations

from enum import Enum


class Tag:
    """The tags that brickyard uses; any other string can be a tag as well."""

    MODEL = "MODEL"
    INFERENCE = "INFERENCE"  # decoders that training does not need
    LOSS = "LOSS"
    METRIC = "METRIC"
    METRIC_INFERENCE = "METRIC_INFERENCE"  # metrics of decoded outputs
    METRIC_EXTRA = "METRIC_EXTRA"  # metrics too slow for every epoch
    VISUALIZATION = "VISUALIZATION"


KNOWN_TAGS = frozenset(value for key, value in vars(Tag).items() if key.isupper())


class Stage(Enum):
    """What a model is used for; `tags` selects the bricks that run."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    INFERENCE = "inference"
    EXPORT = "export"

    @property
    def tags(self) -> frozenset[str]:
        """The tags to call a collection with in this stage."""
        return _STAGE_TAGS[self]


_STAGE_TAGS = {
    Stage.TRAIN: frozenset({Tag.MODEL, Tag.LOSS, Tag.METRIC}),
    Stage.VALIDATION: frozenset({Tag.MODEL, Tag.INFERENCE, Tag.LOSS, Tag.METRIC, Tag.METRIC_INFERENCE}),
    Stage.TEST: frozenset({Tag.MODEL, Tag.INFERENCE, Tag.LOSS, Tag.METRIC, Tag.METRIC_INFERENCE, Tag.METRIC_EXTRA}),
    Stage.INFERENCE: frozenset({Tag.MODEL, Tag.INFERENCE}),
    Stage.EXPORT: frozenset({Tag.MODEL, Tag.INFERENCE}),
}
