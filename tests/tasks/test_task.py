import doctest
from typing import ClassVar

import pytest
import torch
from torch import nn

import brickyard
from brickyard import (
    BrickCollection,
    BrickGraphError,
    BrickInputError,
    BrickMismatchError,
    BrickTrainable,
    HeadSpec,
    LabelKind,
    Task,
    create_model,
    model_info,
    register_part,
    register_task,
)
from brickyard.core.specs import HeadInfo
from brickyard.parts import registry as parts
from brickyard.tasks import registry
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


def test_the_main_output_has_the_task_s_name_by_default():
    assert Distance().main_output == "distance"
    assert {task.main_output for task in TASKS.values()} >= {"logits", "boxes", "keypoints", "vector", "depth"}


def test_a_task_must_declare_its_labels():
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
    for prefix in reversed(name.split("/")):
        tree = {prefix: tree}
    at_path = BrickCollection(tree)[name].to_dict()
    assert Distance().wire(Loss(), name, at_path)["predictions"] == f"{name}/distance"


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


def test_supported_tasks_must_be_classes():
    loss = Loss()
    loss.supported_tasks = [Distance()]
    with pytest.raises(BrickMismatchError, match="supported_tasks: expected classes"):
        Distance().wire(loss, "x", head(nn.Linear(3, 1)))


def test_a_task_that_builds_no_heads_is_not_registered():
    with pytest.raises(ValueError, match="'distance' builds no heads"):
        register_task(Distance())
    assert "distance" not in TASKS
    with pytest.raises(BrickGraphError, match="'distance' builds no heads"):
        Distance().bricks(None, HeadSpec("x", "y", 1))


def test_the_kinds_of_labels_are_those_that_are_declared():
    assert TASKS["seg"].kinds("parts") == {"targets/parts": LabelKind.MASK}
    assert TASKS["cls"].kinds("cls") == {"targets/cls": LabelKind.CLASS_INDEX}
    assert TASKS["cls"].kinds("cls", "multilabel") == {"targets/cls": LabelKind.MULTI_HOT}
    kinds = {name: TASKS[name].kinds(name)[f"targets/{name}"] for name in ("det", "depth", "kpt", "emb", "fomo", "ocr")}
    assert kinds == {
        "det": LabelKind.BOXES,
        "depth": LabelKind.DENSE_MAP,
        "kpt": LabelKind.POINTS,
        "emb": LabelKind.ID,
        "fomo": LabelKind.BOXES,
        "ocr": LabelKind.TEXT,
    }
    assert TASKS["anomaly"].kinds("parts") == {
        "targets/parts": LabelKind.CLASS_INDEX,
        "targets/parts/mask": LabelKind.MASK,
    }


def test_the_kinds_of_metadata_follow_from_their_types():
    class Described(Task):
        name = "described"
        label_kinds: ClassVar = {"boxes": LabelKind.BOXES}
        required_labels = ("boxes", Metadata("distance", float), Metadata("caption", str))

    assert Described().kinds("x") == {
        "targets/x": LabelKind.BOXES,
        "targets/x/distance": LabelKind.METADATA,
        "targets/x/caption": LabelKind.TEXT,
    }


@pytest.mark.parametrize("kinds", [{}, {"boxes": "boxes"}])
def test_an_unknown_kind_is_an_error_that_names_the_task(kinds, monkeypatch):
    monkeypatch.setattr(Distance, "label_kinds", kinds)
    message = r"Task 'distance': expected a LabelKind .* found none for \['boxes'\]\. Set label_kinds = \{'boxes': "
    with pytest.raises(BrickInputError, match=message):
        Distance().kinds("x")


def test_class_names_are_numbers_where_they_are_unknown():
    assert HeadSpec("x", "y", 3).class_names == ["0", "1", "2"]
    assert HeadSpec("x", "y", 2, ("a", "b")).class_names == ["a", "b"]


@pytest.fixture
def _unregistered(monkeypatch):
    """Remove what is registered in the test after it."""
    tasks = dict(registry._TASKS)
    monkeypatch.setattr(parts, "_registered", dict(parts._registered))
    yield
    for name in registry._TASKS.keys() - tasks:
        del registry._TASKS[name]


class AgeLoss(nn.Module):
    def forward(self, predictions, target):
        return nn.functional.l1_loss(predictions[:, 0], target)


@pytest.mark.usefixtures("_unregistered")
def test_the_example_of_its_docstring_is_a_task_that_is_trained_and_described():
    register_part("age_loss")(AgeLoss)
    names = {name: getattr(brickyard, name) for name in brickyard.__all__}
    example = doctest.DocTestParser().get_doctest(Task.__doc__, names, "Task", None, None)
    assert doctest.DocTestRunner().run(example, clear_globs=False) == (0, 3)
    model = create_model("test_resnet_age")
    outputs = model({"image": torch.rand(2, 3, 64, 64), "targets/age/years": torch.tensor([3.0, 5.0])})
    torch.testing.assert_close(outputs["age/loss"], (outputs["age/age"][:, 0] - torch.tensor([3.0, 5.0])).abs().mean())
    assert model_info("test_resnet_age").tasks == {"age": "age"}


@pytest.mark.usefixtures("_unregistered")
@pytest.mark.parametrize("name", ["cls", "seg", "det", "depth", "kpt", "emb", "fomo", "anomaly", "ocr"])
def test_each_built_in_task_can_be_subclassed_to_ask_for_one_more_label(name):
    class More(type(TASKS[name])):
        name = "more"

        @property
        def required_labels(self):
            return super().required_labels | {Metadata("age", float)}

    register_task(More())
    model = create_model("test_resnet_more", num_classes=1 if name == "depth" else 2)
    wanted = set(model.required_inputs(tags={"MODEL", "LOSS"}))
    assert wanted == {"image", "targets/more", "targets/more/age"}


def test_a_class_is_not_registered_for_a_task():
    with pytest.raises(ValueError, match=r"Expected an instance of a subclass of `Task`, found the class .*Distance"):
        register_task(Distance)
    assert "distance" not in TASKS


@pytest.mark.usefixtures("_unregistered")
def test_a_task_without_a_brick_named_head_is_refused_when_it_is_built():
    class Headless(Task):
        name = "headless"
        variants = ("plain",)
        required_labels = ()

        def bricks(self, backbone, head):
            return {"layer": BrickTrainable(nn.Linear(96, 1), ["embedding"], ["./headless"])}

    register_task(Headless())
    with pytest.raises(BrickGraphError, match=r"'headless' builds no brick named 'head', only \['layer'\]"):
        create_model("test_resnet_headless")


@pytest.mark.usefixtures("_unregistered")
def test_a_head_keeps_the_metadata_of_its_task_and_gets_the_rest():
    class Named(Task):
        name = "named"
        variants = ("plain",)
        required_labels = ()

        def bricks(self, backbone, head):
            brick = BrickTrainable(nn.Linear(96, 1), ["embedding"], ["./named"])
            brick.head = HeadInfo("named", head.variant, ("metres",))
            brick.metadata = {"parser": "Parser"}
            return {"head": brick}

    register_task(Named())
    head = create_model("test_resnet_named")["named/head"]
    assert head.head == HeadInfo("named", "plain", ("metres",))
    assert head.metadata == {"parser": "Parser"}
