import pytest
from torch import nn

from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickMismatchError,
    BrickTrainable,
    HeadSpec,
    Task,
    register_task,
)
from brickyard.tasks.metadata import Metadata
from brickyard.tasks.registry import TASKS


class Distance(Task):
    name = "distance"
    required_labels = ("boxes", Metadata("distance", float))


class DistanceOfCars(Distance):
    name = "cars"


class Loss(nn.Module):
    supported_tasks = (Distance,)
    supported_heads = (nn.Linear,)

    def forward(self, predictions, target_distance): ...


def head(module):
    return {"head": BrickTrainable(module, ["embedding"], ["./distance"])}


def test_the_main_output_has_the_task_s_name_where_nothing_is_said():
    assert Distance().main_output == "distance"
    assert {task.main_output for task in TASKS.values()} >= {"logits", "boxes", "keypoints", "vector", "depth"}


def test_a_task_needs_to_say_its_labels():
    class Nothing(Task):
        name = "nothing"

    with pytest.raises(TypeError, match="required_labels"):
        Nothing()


@pytest.mark.parametrize("name", ["front", "far/front"])
def test_names_are_right_for_a_head_of_any_name(name):
    bricks = head(nn.Linear(3, 1))
    wired = Distance().wire(Loss(), name, bricks)
    assert wired == {"predictions": "./distance", "target_distance": f"targets/{name}/distance"}
    tree = bricks
    for place in reversed(name.split("/")):
        tree = {place: tree}
    placed = BrickCollection(tree)[name].to_dict()
    assert Distance().wire(Loss(), name, placed)["predictions"] == f"{name}/distance"


def test_a_subclass_of_a_supported_task_is_supported():
    wired = DistanceOfCars().wire(Loss(), "x", {"head": BrickTrainable(nn.Linear(3, 1), ["embedding"], ["./cars"])})
    assert wired == {"predictions": "./cars", "target_distance": "targets/x/distance"}


def test_another_task_or_head_is_refused_by_name():
    class Other(Task):
        name = "other"
        required_labels = ()

    with pytest.raises(BrickMismatchError, match=r"'x/Loss' cannot be attached:\n.*tasks: Distance; found: Other"):
        Other().wire(Loss(), "x", head(nn.Linear(3, 1)))
    with pytest.raises(BrickMismatchError, match=r"'x/Loss' cannot be attached:\n.*heads: Linear; found: Identity"):
        Distance().wire(Loss(), "x", head(nn.Identity()))


def test_what_is_supported_is_said_by_classes():
    loss = Loss()
    loss.supported_tasks = [Distance()]
    with pytest.raises(BrickMismatchError, match="supported_tasks are no classes"):
        Distance().wire(loss, "x", head(nn.Linear(3, 1)))


def test_a_task_that_builds_no_heads_is_not_registered():
    with pytest.raises(ValueError, match="'distance' builds no heads"):
        register_task(Distance())
    assert "distance" not in TASKS
    with pytest.raises(BrickGraphError, match="'distance' builds no heads"):
        Distance().bricks(None, HeadSpec("x", "y", 1))


def test_class_names_are_numbers_where_nobody_says():
    assert HeadSpec("x", "y", 3).class_names == ["0", "1", "2"]
    assert HeadSpec("x", "y", 2, ("a", "b")).class_names == ["a", "b"]
