import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from brickyard import Predictor, Stage, create_model
from brickyard.core.conversions import torch_to_numpy
from brickyard.data.geometry import resize_geometry
from brickyard.parts.drawing.masks import DrawSegmentation
from brickyard.tasks.registry import get_task
from brickyard.tasks.smp import ARCHITECTURES

VARIANTS = ("fpn", "fcn", "deeplabv3", "deeplabv3plus", "lraspp", "segformer", "tower", "unet")
LABELS = ["background", "disc", "square"]


def shapes(count=8, size=64):
    """Discs and squares on noise."""
    image, target = 0.2 * torch.rand(count, 3, size, size), torch.zeros(count, size, size, dtype=torch.int64)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for row in range(count):
        centre_y, centre_x, radius = (
            torch.rand(3) * torch.tensor([0.4, 0.4, 0.15]) + torch.tensor([0.3, 0.3, 0.15])
        ) * size
        down, right = (y - centre_y).abs(), (x - centre_x).abs()
        inside = (down**2 + right**2).sqrt() < radius if row % 2 else (down < radius) & (right < radius)
        target[row][inside] = 2 - row % 2
        image[row, row % 2][inside] += 0.7
    return {"image": image, "targets/seg": target}


def test_the_variants_and_the_default_of_21_classes():
    assert get_task("seg").variants == (*VARIANTS, "linear", "linear4", *(f"smp{name}" for name in ARCHITECTURES))
    model = create_model("test_resnet_seg")
    assert model["seg/head"].head.variant == "fpn"
    assert list(model["seg/head"].head.labels) == [str(index) for index in range(21)]
    assert model["seg/head"].model.classifier.out_channels == 21


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("backbone", "size"), [("test_resnet", (97, 131)), ("test_convnext", (97, 131)), ("test_vit", (160, 160))]
)
def test_logits_have_the_size_of_the_image_on_any_backbone(backbone, size, variant):
    model = create_model(f"{backbone}_seg-{variant}", num_classes=5).eval()
    values = model({"image": torch.rand(2, 3, *size)}, tags=Stage.INFERENCE.tags)
    assert values["seg/logits"].shape == (2, 5, *size)
    assert values["seg/logits"].dtype == torch.float32
    expected = functional.interpolate(values["seg/coarse"], size, mode="bilinear", align_corners=False)
    assert torch.equal(values["seg/logits"], expected)
    assert torch.equal(values["seg/class_prediction"], expected.argmax(dim=1))
    assert ("seg/pyramid" in model) == (backbone == "test_vit" and variant not in ("fcn", "deeplabv3"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_of_the_head_is_trained(variant):
    model = create_model(f"test_vit_seg-{variant}", num_classes=3)
    batch = {"image": torch.rand(2, 3, 160, 160), "targets/seg": torch.randint(0, 3, (2, 160, 160))}
    model(batch, tags=Stage.TRAIN.tags)["seg/loss"].backward()
    without = [name for name, weight in model["seg"].named_parameters() if weight.grad is None]
    assert not without


def test_the_loss_is_cross_entropy_and_dice():
    model, batch = create_model("test_resnet_seg", labels=LABELS).eval(), shapes(count=3)
    batch["targets/seg"][0, :20] = 255
    values = model(batch, tags=Stage.TRAIN.tags)
    known = batch["targets/seg"] != 255
    logits, target = values["seg/logits"].movedim(1, -1)[known], batch["targets/seg"][known]
    predicted, truth = logits.softmax(dim=1), functional.one_hot(target, 3).float()
    dice = 1 - 2 * (predicted * truth).sum(dim=0) / (predicted + truth).sum(dim=0)
    torch.testing.assert_close(values["seg/loss"], functional.cross_entropy(logits, target) + dice.mean())


def test_metrics_read_the_predicted_classes():
    model = create_model("test_resnet_seg", labels=LABELS).eval()
    batch = shapes(count=2)
    values = model(batch, tags=Stage.VALIDATION.tags)
    summary = model.summarize(reset=True)
    assert set(summary) == {"seg/MeanIoU", *(f"seg/IoU/{label}" for label in LABELS), "seg/PixelAccuracy"}
    right = values["seg/class_prediction"] == batch["targets/seg"]
    assert summary["seg/PixelAccuracy"].item() == pytest.approx(right.float().mean().item())


def test_unlabelled_rows_give_no_gradient_and_no_metric():
    model, batch = create_model("test_resnet_seg", num_classes=3).eval(), shapes(count=3)
    kept = torch.tensor([True, False, True])
    batch["targets/seg"][1] = -1
    partial = {**batch, "labelled/seg": kept, "image": batch["image"].requires_grad_()}
    loss = model(partial, tags=Stage.TRAIN.tags)["seg/loss"]
    summary = model.summarize(reset=True)
    gradient = torch.autograd.grad(loss, batch["image"])[0]
    assert gradient[kept].any()
    assert not gradient[~kept].any()
    alone = model({name: value[kept] for name, value in batch.items()}, tags=Stage.TRAIN.tags)["seg/loss"]
    torch.testing.assert_close(loss, alone)
    for name, value in model.summarize(reset=True).items():
        torch.testing.assert_close(value, summary[name], equal_nan=True)


def test_a_batch_without_any_label_has_a_zero_loss_that_reaches_every_weight():
    model, batch = create_model("test_resnet_seg", num_classes=3), shapes(count=2)
    loss = model({**batch, "labelled/seg": torch.zeros(2, dtype=torch.bool)}, tags=Stage.TRAIN.tags)["seg/loss"]
    loss.backward()
    assert loss.item() == 0
    assert not model.summarize(reset=True)
    for weight in model["seg"].parameters():
        assert weight.grad is not None
        assert not weight.grad.any()


def test_several_tasks_run_separately_or_together():
    model = create_model("test_resnet_cls_seg", num_classes={"cls": 4, "seg": 3}).eval()
    image = {"image": torch.rand(2, 3, 64, 64)}
    both = model(image, tags=Stage.INFERENCE.tags)
    only = model(image, outputs=["seg/logits"])
    assert list(only) == ["seg/logits"]
    torch.testing.assert_close(only["seg/logits"], both["seg/logits"])
    assert both["cls/logits"].shape == (2, 4)
    batch = {**image, "targets/cls": torch.tensor([1, 2])}
    losses = model.extract_losses(model(batch, tags=Stage.TRAIN.tags, skip_missing=True))
    assert list(losses) == ["cls/loss"]


def test_results_are_the_classes_by_their_share():
    classes = np.array([[2, 2, 2, 0], [2, 2, 0, 1]])
    assert get_task("seg").results({"class_prediction": classes}, LABELS) == [
        {"label": "square", "class": 2, "share": 5 / 8},
        {"label": "background", "class": 0, "share": 2 / 8},
        {"label": "disc", "class": 1, "share": 1 / 8},
    ]


def test_the_classes_of_another_size_are_stretched():
    classes = np.array([[2, 1], [0, 0]])
    values = get_task("seg").on_image(
        {"class_prediction": classes, "logits": 1}, resize_geometry((4, 6), (2, 2), "squash")
    )
    assert values["logits"] == 1
    np.testing.assert_array_equal(values["class_prediction"], classes.repeat(2, axis=0).repeat(3, axis=1))


def visualizations(model, image):
    values = model({"image": image}, outputs=["seg/visualization", "seg/class_prediction"])
    return values["seg/visualization"], torch_to_numpy(values["seg/class_prediction"])


def test_the_visualization_shows_the_predicted_classes_also_after_a_save(tmp_path):
    model, image = create_model("test_resnet_seg", labels=LABELS).eval(), torch.rand(2, 3, 40, 70)
    drawn, classes = visualizations(model, image)
    model.save_pretrained(tmp_path / "model")
    again, _ = visualizations(create_model(f"local-dir:{tmp_path / 'model'}").eval(), image)
    draw = DrawSegmentation(LABELS)
    assert len(np.unique(classes)) > 1
    for row in range(2):
        expected = draw(image[row].movedim(0, -1).numpy(), classes[row])
        np.testing.assert_array_equal(np.asarray(drawn[row]), np.asarray(expected))
        np.testing.assert_array_equal(np.asarray(again[row]), np.asarray(expected))


@pytest.mark.parametrize("variant", ["fpn", "tower"])
def test_eight_images_are_learned(variant):
    model, batch = create_model(f"test_resnet_seg-{variant}", labels=LABELS), shapes()
    steps = 50
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    losses = []
    for _ in range(steps):
        loss = model(batch, tags={"MODEL", "LOSS"})["seg/loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with torch.no_grad():
        model.eval()(batch, tags=Stage.VALIDATION.tags)
    assert losses[-1] < 0.1 * losses[0]
    assert model.summarize(reset=True)["seg/MeanIoU"] > 0.9


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["test_resnet_seg", "test_resnet_seg-tower", "test_resnet_seg-deeplabv3"])
def test_a_training_step_is_one_graph(name):
    model = create_model(name, num_classes=3)
    batch = {"image": torch.rand(2, 3, 97, 97), "targets/seg": torch.randint(0, 3, (2, 97, 97))}
    batch["labelled/seg"] = torch.tensor([True, False])
    tags = {"MODEL", "LOSS"}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)

    def step(call):
        torch.manual_seed(0)
        model.zero_grad()
        loss = call(batch, tags=tags)["seg/loss"]
        loss.backward()
        return loss.detach(), [weight.grad.clone() for weight in model["seg"].parameters()]

    loss, gradients = step(compiled)
    expected, expected_gradients = step(model)
    torch.testing.assert_close(loss, expected)
    if "deeplabv3" not in name:  # no dropout, whose numbers a compiled graph draws in its own order
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fpn", "deeplabv3", "tower", "unet"])
def test_a_head_is_exported_with_a_dynamic_batch(variant):
    model = create_model(f"test_resnet_seg-{variant}", num_classes=3).eval().sub_collection(tags="MODEL")
    call = {"tags": "MODEL", "return_inputs": False}
    program = torch.export.export(
        model,
        ({"image": torch.rand(2, 3, 97, 131)},),
        call,
        dynamic_shapes={"named_inputs": {"image": {0: torch.export.Dim("batch")}}, **dict.fromkeys(call)},
        strict=True,
    )
    image = {"image": torch.rand(3, 3, 97, 131)}
    torch.testing.assert_close(program.module()(image, **call)["seg/logits"], model(image, **call)["seg/logits"])


def test_a_predictor_draws_all_heads_on_one_image(tmp_path):
    tasks = {"parts": "seg", "stuff": "seg-lraspp", "kind": "cls"}
    model = create_model(backbone="test_resnet", tasks=tasks, num_classes={"parts": 3, "stuff": 4, "kind": 5}).eval()
    file = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 400, 3), dtype=np.uint8)).save(file)
    prediction = next(Predictor(model).predict(file, draw=True))
    for head in ("parts", "stuff"):
        assert sum(result["share"] for result in prediction.results[head]) == pytest.approx(1)
    assert prediction.visualization.width == 400
    assert prediction.visualization.height > 120
