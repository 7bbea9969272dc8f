import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from brickyard import BrickCollection, HeadRecipe, HeadSpec, Stage, Tag, create_model
from brickyard.core.specs import BackboneSpec, HeadInfo
from brickyard.parts.backbones import timm_backbone, timm_spec
from brickyard.recipe.build import head_bricks
from brickyard.tasks.cls import Classification
from brickyard.tasks.selection import Selection


@pytest.fixture(scope="module")
def backbone() -> BackboneSpec:
    return timm_spec(timm_backbone("test_resnet"))


@pytest.fixture
def head(backbone) -> BrickCollection:
    bricks = Classification().bricks(backbone, HeadSpec("animal", "linear", 7, tuple("abcdefg")))
    return BrickCollection({"animal": bricks})


def batch(backbone: BackboneSpec, size: int = 6) -> dict[str, torch.Tensor]:
    return {
        "embedding": torch.randn(size, backbone.embedding),
        "targets/animal": torch.arange(size) % 7,
        "image": torch.rand(size, 3, 40, 330),
    }


def test_the_head_is_one_linear_layer_as_timm_has_it(head, backbone):
    theirs = timm_backbone("test_resnet")
    theirs.reset_classifier(7)
    assert {key: value.shape for key, value in head["animal/head"].model.state_dict().items()} == {
        key: value.shape for key, value in theirs.get_classifier().state_dict().items()
    }
    inputs = batch(backbone)
    outputs = head(inputs, tags={Tag.MODEL})
    layer = head["animal/head"].model
    torch.testing.assert_close(outputs["animal/logits"], inputs["embedding"] @ layer.weight.T + layer.bias)


def test_predictions_follow_from_the_logits(head, backbone):
    outputs = head(batch(backbone), tags=Stage.INFERENCE.tags)
    torch.testing.assert_close(outputs["animal/probabilities"], outputs["animal/logits"].softmax(1))
    assert torch.equal(outputs["animal/class_prediction"], outputs["animal/logits"].argmax(1))
    assert outputs["animal/class_prediction"].dtype == torch.int64


def test_loss_and_metrics_are_those_of_torch_and_torchmetrics(head, backbone):
    inputs = batch(backbone)
    outputs = head(inputs, tags=Stage.TRAIN.tags)
    logits, target = outputs["animal/logits"], inputs["targets/animal"]
    torch.testing.assert_close(outputs["animal/loss"], nn.functional.cross_entropy(logits, target))
    summary = head.summarize(reset=True)
    for name, options in {
        "Accuracy": {"average": "micro"},
        "MeanAccuracy": {"average": "macro"},
        "AccuracyTop5": {"average": "micro", "top_k": 5},
    }.items():
        torch.testing.assert_close(summary[f"animal/{name}"], MulticlassAccuracy(7, **options)(logits, target))


def test_each_stage_runs_its_bricks(head):
    assert head.required_inputs(tags=Stage.INFERENCE.tags) == ["embedding"]
    assert head.required_inputs(tags=Stage.TRAIN.tags) == ["embedding", "targets/animal"]
    assert "image" in head.required_inputs(tags={Tag.MODEL, Tag.VISUALIZATION})


def test_one_visualization_is_drawn_for_each_image(head, backbone):
    inputs = batch(backbone, 3)
    outputs = head(inputs, tags={Tag.MODEL, Tag.INFERENCE, Tag.VISUALIZATION})
    visualizations = outputs["animal/visualization"]
    assert len(visualizations) == 3
    assert visualizations[0].width == 330
    shown = np.asarray(visualizations[1])[:40]
    assert np.array_equal(shown, np.rint(inputs["image"][1].permute(1, 2, 0).numpy() * 255).astype(np.uint8))


def test_results_are_the_selected_classes_best_first():
    probabilities = np.array([0.05, 0.3, 0.1, 0.3, 0.2, 0.04, 0.01], np.float32)
    selected = Classification().select({"probabilities": probabilities}, Selection(topk=5))
    results = Classification().results(selected, list("abcdefg"))
    assert [result["label"] for result in results] == ["b", "d", "e", "c", "a"]  # equal ones in the order of classes
    assert [result["class"] for result in results] == [1, 3, 4, 2, 0]
    assert results[0]["probability"] == pytest.approx(0.3)
    assert {type(result["class"]) for result in results} == {int}
    assert {type(result["probability"]) for result in results} == {float}


def test_with_few_classes_there_are_few_results():
    results = Classification().results({"probabilities": np.array([0.2, 0.8])}, ["no", "yes"])
    assert [result["label"] for result in results] == ["yes", "no"]


def test_the_number_of_classes_is_timm_s_where_none_is_given(backbone):
    assert Classification().default_num_classes(backbone) == backbone.num_classes == 1000


def test_names_of_classes_are_numbers_where_none_is_given(backbone):
    bricks = head_bricks(backbone, HeadRecipe("cls", "cls", "linear", 3))
    assert bricks["head"].head == HeadInfo("cls", "linear", ("0", "1", "2"))


def spots(count: int = 12, size: int = 64) -> dict[str, torch.Tensor]:
    """Small squares, one color per class, none to three in an image."""
    image = 0.2 * torch.rand(count, 3, size, size)
    target = (torch.arange(count)[:, None] >> torch.arange(3)) % 2
    for row in range(count):
        for label in target[row].nonzero():
            top, left = torch.randint(0, size - 8, (2,)).tolist()
            image[row, label, top : top + 8, left : left + 8] = 1
    return {"image": image, "targets/cls": target}


def test_small_objects_of_several_classes_are_learned():
    model, batch = create_model("test_resnet_cls-multilabel", num_classes=3), spots()
    steps = 60
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        loss = model(batch, tags={Tag.MODEL, Tag.LOSS})["cls/loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        values = model.eval()(batch, tags=Stage.VALIDATION.tags)
    assert torch.equal(values["cls/class_prediction"], batch["targets/cls"].bool())
    assert model.summarize(reset=True)["cls/ExactMatch"] == 1


@pytest.mark.parametrize(
    ("name", "size"), [("test_resnet", (97, 131)), ("test_convnext", (97, 131)), ("test_vit", (160, 160))]
)
def test_several_classes_are_scored_on_any_backbone_and_every_weight_is_trained(name, size):
    model = create_model(f"{name}_cls-multilabel", num_classes=4)
    values = model(
        {"image": torch.rand(2, 3, *size), "targets/cls": torch.randint(0, 2, (2, 4))}, tags=Stage.TRAIN.tags
    )
    assert values["cls/logits"].shape == (2, 4)
    assert ("cls/pyramid" in model) == (name == "test_vit")
    values["cls/loss"].backward()
    assert all(weight.grad is not None for weight in model["cls"].parameters())


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
def test_several_classes_are_one_graph_and_exported_with_a_dynamic_batch():
    model = create_model("test_resnet_cls-multilabel", num_classes=3)
    batch = {"image": torch.rand(2, 3, 97, 97), "targets/cls": torch.tensor([[1, 0, 1], [0, 1, 0]])}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = model(batch, tags={"MODEL", "LOSS"})["cls/loss"]
    torch.testing.assert_close(compiled(batch, tags={"MODEL", "LOSS"})["cls/loss"], expected)
    model, call = model.eval().sub_collection(tags="MODEL"), {"tags": "MODEL", "return_inputs": False}
    shapes = {"named_inputs": {"image": {0: torch.export.Dim("batch")}}, **dict.fromkeys(call)}
    program = torch.export.export(model, ({"image": batch["image"]},), call, dynamic_shapes=shapes, strict=True)
    image = {"image": torch.rand(3, 3, 97, 97)}
    torch.testing.assert_close(program.module()(image, **call)["cls/logits"], model(image, **call)["cls/logits"])
