import pytest

from brickyard import Stage, Tag
from brickyard.core.tags import KNOWN_TAGS


def test_a_tag_is_the_string_of_its_name():
    for name in ("MODEL", "INFERENCE", "LOSS", "METRIC", "METRIC_INFERENCE", "METRIC_EXTRA", "VISUALIZATION"):
        assert getattr(Tag, name) == name


def test_the_known_tags_are_those_of_tag():
    assert set(KNOWN_TAGS) == {
        "MODEL",
        "INFERENCE",
        "LOSS",
        "METRIC",
        "METRIC_INFERENCE",
        "METRIC_EXTRA",
        "VISUALIZATION",
    }


@pytest.mark.parametrize(
    ("stage", "tags"),
    [
        (Stage.TRAIN, {"MODEL", "LOSS", "METRIC"}),
        (Stage.VALIDATION, {"MODEL", "INFERENCE", "LOSS", "METRIC", "METRIC_INFERENCE"}),
        (Stage.TEST, {"MODEL", "INFERENCE", "LOSS", "METRIC", "METRIC_INFERENCE", "METRIC_EXTRA"}),
        (Stage.INFERENCE, {"MODEL", "INFERENCE"}),
        (Stage.EXPORT, {"MODEL", "INFERENCE"}),
    ],
)
def test_a_stage_selects_tags(stage, tags):
    assert stage.tags == tags


def test_every_stage_runs_the_model_and_only_labelled_stages_the_loss():
    assert all(Tag.MODEL in stage.tags for stage in Stage)
    assert {stage for stage in Stage if Tag.LOSS in stage.tags} == {Stage.TRAIN, Stage.VALIDATION, Stage.TEST}
