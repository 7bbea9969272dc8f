from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import timm
import torch

from brickyard import (
    BackboneSpec,
    BrickInputError,
    BrickTrainable,
    HeadSpec,
    LabelKind,
    Predictor,
    Stage,
    Task,
    UnknownNameError,
    create_model,
    create_part,
    list_models,
    model_info,
    register_task,
)
from brickyard.core.specs import HeadInfo
from brickyard.recipe.names import parse_name
from brickyard.tasks import registry
from brickyard.tasks.registry import TASKS, get_task, task_variants
from tests.toys import run_python


class Sizes(Task):
    """One number per size: a linear layer on the pooled vector."""

    name: ClassVar[str] = "sizes"
    variants: ClassVar[tuple[str, ...]] = ("plain", "doubled")
    required_labels: ClassVar[tuple[str, ...]] = ("sizes",)
    label_kinds: ClassVar[dict[str, LabelKind]] = {"sizes": LabelKind.METADATA}
    main_output: ClassVar[str] = "values"

    def bricks(self, backbone: BackboneSpec, head: HeadSpec) -> dict[str, Any]:
        width = head.num_classes * (2 if head.variant == "doubled" else 1)
        part = create_part("linear", in_features=backbone.embedding, out_features=width)
        brick = BrickTrainable(part, input_names=["embedding"], output_names=["./values"])
        labels = tuple(head.labels or map(str, range(head.num_classes)))
        brick.head = HeadInfo(self.name, head.variant, labels)
        return {"head": brick}

    def default_num_classes(self, backbone: BackboneSpec) -> int:
        return 3

    def results(self, values: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
        return [{"label": label, "value": float(value)} for label, value in zip(labels, values["values"], strict=True)]


@pytest.fixture
def task() -> Iterator[Task]:
    """A registered task, removed after the test."""
    task = register_task(Sizes())
    yield task
    del registry._TASKS["sizes"]


@pytest.mark.slow
def test_a_registered_task_works_in_model_names(task):
    model = create_model("test_resnet_sizes_cls", num_classes={"cls": 2})
    outputs = model({"image": torch.rand(2, 3, 64, 64)}, tags={"MODEL"})
    assert (outputs["sizes/values"].shape, outputs["cls/logits"].shape) == ((2, 3), (2, 2))
    doubled = create_model("test_resnet_sizes-doubled", num_classes=5)
    assert doubled["sizes/head"].model.out_features == 10
    assert "test_resnet_sizes" in list_models("test_resnet_*", tasks=["sizes"])
    assert model_info("test_resnet_sizes").num_classes == {"sizes": 3}
    assert get_task("sizes") is task is TASKS["sizes"]


def test_a_registered_task_is_saved_and_loaded(task, tmp_path):
    model = create_model("test_resnet_cls_sizes-doubled", labels={"sizes": ["small", "large"]}).eval()
    model.save_pretrained(tmp_path)
    again = create_model(f"local-dir:{tmp_path}").eval()
    image = torch.rand(1, 3, 64, 64)
    ours, theirs = (other({"image": image}, outputs=["sizes/values"]) for other in (model, again))
    torch.testing.assert_close(ours["sizes/values"], theirs["sizes/values"])
    assert list(again["sizes/head"].head.labels) == ["small", "large"]
    with pytest.warns(UserWarning, match="'sizes/head' starts with fresh weights"):
        wider = create_model(f"local-dir:{tmp_path}", num_classes={"sizes": 4})
    assert wider["sizes/head"].model.out_features == 8  # the variant is kept
    assert wider["cls/head"].model.out_features == 1000


def test_a_task_without_a_visualization_brick_predicts(task):
    predictor = Predictor(create_model("test_resnet_sizes"), device="cpu")
    image = registry.__file__.replace("tasks/registry.py", "samples/coffee.jpg")
    prediction = next(predictor.predict(image))
    assert [result["label"] for result in prediction.results["sizes"]] == ["0", "1", "2"]


@pytest.mark.slow
def test_importing_the_registry_imports_no_task_and_no_torch():
    code = """
import sys
from brickyard.tasks.registry import TASKS
print(list(TASKS), "seg" in TASKS, len(TASKS))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "torchvision", "timm", "torchmetrics"}))
TASKS["seg"]
print(sorted(name for name in sys.modules if name in ("brickyard.tasks.seg", "brickyard.tasks.det")))
"""
    names, heavy, loaded = run_python(code).splitlines()
    assert names == "['cls', 'depth', 'seg', 'det', 'inst', 'pose', 'kpt', 'emb', 'fomo', 'anomaly', 'ocr'] True 11"
    assert heavy == "[]"
    assert loaded == "['brickyard.tasks.seg']"


def test_a_task_without_a_kind_for_each_label_is_refused(monkeypatch):
    monkeypatch.setattr(Sizes, "label_kinds", {})
    message = r"Task 'sizes': expected a LabelKind for each label in `label_kinds`, found none for \['sizes'\]"
    with pytest.raises(BrickInputError, match=message):
        register_task(Sizes())
    assert "sizes" not in TASKS


def test_an_unknown_task_names_the_nearest(task):
    with pytest.raises(UnknownNameError, match="'sizes'"):
        get_task("size")
    with pytest.raises(UnknownNameError, match="'sizes'"):
        create_model("test_resnet_size")


def test_the_name_of_a_removed_task_is_unknown():
    with pytest.raises(UnknownNameError):
        create_model("test_resnet_sizes")


def test_a_task_can_be_registered_again_but_its_name_is_taken(task):
    assert register_task(task) is task
    with pytest.raises(ValueError, match="'sizes' is registered already"):
        register_task(Sizes())


@pytest.mark.parametrize("name", ["", "a_b", "a-b", "a.b", "a/b", "größe", "a b"])
def test_a_name_that_is_no_token_is_refused(name, monkeypatch):
    monkeypatch.setattr(Sizes, "name", name)
    with pytest.raises(ValueError, match="cannot be a task's name"):
        register_task(Sizes())
    assert name not in TASKS


def test_a_variant_that_is_no_token_is_refused(monkeypatch):
    monkeypatch.setattr(Sizes, "variants", ("plain", "with_underscore"))
    try:
        with pytest.raises(ValueError, match="with_underscore"):
            register_task(Sizes())
    finally:
        registry._TASKS.pop("sizes", None)


def test_the_built_in_tasks_are_in_model_names():
    names = ["cls", "depth", "seg", "det", "inst", "pose", "kpt", "emb", "fomo", "anomaly", "ocr"]
    assert list(TASKS) == names
    model = create_model("test_resnet_emb_kpt-deconv_depth", num_classes={"kpt": 3, "emb": 8}, loss_weights="learned")
    image = {"image": torch.rand(2, 3, 64, 64)}
    labels = {
        "targets/kpt": torch.full((2, 3, 3), 20.0),
        "targets/emb": torch.tensor([1, 1]),
        "targets/depth": torch.rand(2, 64, 64) + 1,
    }
    model({**image, **labels}, tags=Stage.TRAIN.tags)["loss"].backward()
    assert model["backbone"].model.conv1[0].weight.grad.any()
    values = model(image, tags=Stage.INFERENCE.tags)
    shapes = [tuple(values[name].shape) for name in ("kpt/keypoints", "emb/vector", "depth/depth")]
    assert shapes == [(2, 3, 2), (2, 8), (2, 1, 64, 64)]


@pytest.mark.slow
def test_a_training_step_of_the_built_in_tasks_is_one_graph():
    torch.compiler.reset()
    torch.manual_seed(0)
    model = create_model("test_resnet_emb_kpt_depth", num_classes={"kpt": 3, "emb": 8}, loss_weights="learned")
    batch = {
        "image": torch.rand(2, 3, 64, 64),
        "targets/kpt": torch.rand(2, 3, 3) * 60,
        "targets/emb": torch.tensor([1, 1]),
        "targets/depth": torch.rand(2, 64, 64) + 1,
        "labelled/kpt": torch.tensor([True, False]),
        "labelled/depth": torch.tensor([False, True]),
    }
    expected = model(batch, tags={"MODEL", "LOSS"})["loss"]
    loss = torch.compile(model, backend="aot_eager", fullgraph=True)(batch, tags={"MODEL", "LOSS"})["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.compiler.reset()


def test_every_backbone_takes_every_task():
    suffix = "_".join(sorted(TASKS, key=lambda task: task == "cls"))  # last: the names of some backbones end in "_cls"
    names = frozenset(timm.list_models())
    for name in names:
        recipe = parse_name(f"{name}_{suffix}", names, task_variants())
        assert (recipe.backbone, [head.task for head in recipe.heads]) == (name, list(TASKS))


def test_the_mapping_of_tasks_is_read_only():
    with pytest.raises(TypeError):
        TASKS["sizes"] = Sizes()
