import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard import BrickCollection, create_model
from brickyard.core.specs import HeadInfo
from brickyard.core.tags import Stage
from brickyard.data.geometry import resize_geometry
from brickyard.errors import BrickInputError
from brickyard.parts.detection.targets import PadBoxes
from brickyard.tasks.registry import get_task
from brickyard.tasks.selection import Selection
from tests.private_names import compile_aot_eager

VARIANTS = ["fcos", "retinanet", "ssdlite", "centernet"]
COLORS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])
RECTANGLES = [  # of each image: (x1, y1, x2, y2) and a class
    [((4, 50, 40, 86), 0), ((62, 4, 92, 34), 1)],
    [((20, 8, 52, 30), 1), ((48, 52, 90, 90), 2)],
    [((8, 24, 34, 70), 2)],
    [((50, 12, 80, 60), 0), ((6, 58, 42, 92), 1)],
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch.compiler.reset()


def detector(variant: str = "fcos", backbone: str = "test_resnet", **options) -> BrickCollection:
    return create_model(f"{backbone}_det-{variant}", num_classes=3, **options)


def rectangles(size: int = 96):
    """Four images of one or two colored rectangles."""
    image = 0.2 * torch.rand(4, 3, size, size)
    targets = []
    for index, objects in enumerate(RECTANGLES):
        for (left, top, right, bottom), label in objects:
            image[index, :, top:bottom, left:right] = COLORS[label][:, None, None]
        boxes, labels = zip(*objects, strict=True)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
    return {"image": image, "targets/det": targets}


def padded(batch):
    boxes, labels = PadBoxes(3)(batch["targets/det"], batch["image"])
    return {**batch, "targets/det": {"boxes": boxes, "labels": labels}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_detector_reads_and_writes_what_the_design_says(variant):
    model, batch = detector(variant).eval(), rectangles()
    outputs = model(batch)
    assert outputs["det/boxes"].shape == (4, 100, 4)
    assert outputs["det/scores"].shape == (4, 100)
    assert outputs["det/labels"].shape == (4, 100)
    assert outputs["det/labels"].dtype == torch.int64
    assert (outputs["det/scores"].diff(dim=1) <= 0).all(), "best first"
    assert set(model.extract_losses(outputs)) == {"det/loss"}
    parts = [value for name, value in outputs.items() if name.startswith("det/loss_")]
    torch.testing.assert_close(outputs["det/loss"], sum(parts))
    assert [drawn.size for drawn in outputs["det/visualization"]] == [(96, 96)] * 4
    assert {"det/map", "det/map_50", "det/map_75"} <= set(model.summarize(reset=True))
    assert model["det/head"].head == HeadInfo("det", variant, ("0", "1", "2"))


def test_fcos_is_the_default_and_coco_the_default_classes():
    assert get_task("det").variants[0] == "fcos"
    model = create_model("test_resnet_det")
    assert len(model["det/head"].head.labels) == 80
    assert model(rectangles(), tags="MODEL")["det/logits"].shape[2] == 80


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("backbone", "size"), [("test_vit", (160, 160)), ("test_convnext", (97, 131)), ("test_resnet", (160, 224))]
)
def test_every_kind_of_backbone_and_odd_sizes_train(variant, backbone, size):
    model = detector(variant, backbone)
    target = {"boxes": torch.tensor([[10.0, 20, 60, 90]]), "labels": torch.tensor([1])}
    outputs = model({"image": torch.rand(2, 3, *size), "targets/det": [target] * 2}, tags=Stage.TRAIN.tags)
    outputs["det/loss"].backward()
    assert outputs["det/loss"].isfinite()
    assert all(parameter.grad is not None for parameter in model["det/head"].parameters())


def test_stages_decode_and_measure_only_where_they_need_to():
    model, batch = detector(), rectangles()
    assert "det/boxes" not in model(batch, tags=Stage.TRAIN.tags)
    assert "det/map" not in model.summarize(reset=True)
    for stage in (Stage.VALIDATION, Stage.TEST):
        model(batch, tags=stage.tags)
        assert "det/map" in model.summarize(reset=True)
    outputs = model({"image": batch["image"]}, tags=Stage.INFERENCE.tags)
    assert "det/boxes" in outputs
    assert "det/loss" not in outputs
    assert model.required_inputs(tags=Stage.EXPORT.tags) == ["image"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_without_label_get_no_gradient(variant):
    model, batch = detector(variant).eval(), rectangles()  # BatchNorm would mix the rows
    batch["image"].requires_grad_()
    labelled = torch.tensor([True, False, True, False])
    model({**batch, "labelled/det": labelled}, tags=Stage.TRAIN.tags)["det/loss"].backward()
    assert not batch["image"].grad[~labelled].any()
    assert batch["image"].grad[labelled].flatten(1).any(dim=1).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_without_label_is_a_finite_zero_that_reaches_every_parameter(variant):
    model = detector(variant)
    nothing = torch.zeros(4, dtype=torch.bool)
    loss = model({**rectangles(), "labelled/det": nothing}, tags=Stage.TRAIN.tags)["det/loss"]
    loss.backward()
    assert loss.item() == 0
    for parameter in model["det/head"].parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_a_batch_without_targets_can_leave_the_loss_out():
    outputs = detector()({"image": rectangles()["image"]}, skip_missing=True, tags=Stage.VALIDATION.tags)
    assert "det/boxes" in outputs
    assert "det/loss" not in outputs


def test_bad_targets_name_the_label_and_the_image():
    batch = rectangles()
    batch["targets/det"][2]["labels"] = torch.tensor([3])
    with pytest.raises(BrickInputError, match=r"targets/det, row 2, box 0: expected a class in \[0, 3\), found 3"):
        detector()(batch)


def test_results_are_json_of_the_detections_with_a_good_score():
    values = {
        "boxes": np.array([[1.0, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]], dtype=np.float32),
        "scores": np.array([0.75, 0.25, 0.0], dtype=np.float32),
        "labels": np.array([1, 0, -1]),
    }
    results = get_task("det").results(get_task("det").select(values, Selection(0.3)), ["cat", "dog"])
    assert results == [{"label": "dog", "class": 1, "score": 0.75, "box": [1.0, 2.0, 3.0, 4.0]}]
    json.dumps(results)


def test_boxes_of_an_image_of_another_size_are_stretched_with_it():
    values = {"boxes": np.array([[10.0, 20, 30, 40]], dtype=np.float32), "scores": np.array([0.5], dtype=np.float32)}
    shown = get_task("det").on_image(values, resize_geometry((300, 400), (100, 200), "squash"))
    assert shown["boxes"].tolist() == [[20, 60, 60, 120]]
    assert shown["scores"] is values["scores"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_detector_is_the_same(variant, tmp_path):
    model, image = detector(variant).eval(), {"image": rectangles()["image"]}
    model.save_pretrained(tmp_path)
    again = BrickCollection.from_pretrained(tmp_path).eval()
    expected, outputs = (each(image, tags=Stage.INFERENCE.tags) for each in (model, again))
    for name in ("det/boxes", "det/scores", "det/labels"):
        assert torch.equal(outputs[name], expected[name])
    assert isinstance(again(rectangles())["det/visualization"][0], Image.Image)


class Counter:
    """`aot_eager`, counting how often it was asked to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return compile_aot_eager(graph, inputs)


@pytest.mark.slow
def test_a_training_step_on_padded_targets_is_one_graph_for_any_number_of_boxes():
    model, backend = detector(), Counter()
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend=backend, fullgraph=True)
    batch = rectangles()
    for count in (2, 0, 1):
        batch["targets/det"][0] = {name: value[:count] for name, value in batch["targets/det"][0].items()}
        losses = [call(padded(batch), tags={"MODEL", "LOSS"})["det/loss"] for call in (model, compiled)]
        torch.testing.assert_close(*losses)
        for loss in losses:
            loss.backward()
    assert backend.graphs == 1
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_detection_is_one_graph_with_and_without_detections():
    model, backend = detector().eval(), Counter()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    head = model["det/head"].model.head
    for bias in (-9.0, 3.0):
        torch.nn.init.constant_(head.classification_head.cls_logits.bias, bias)
        image = {"image": rectangles()["image"]}
        outputs, expected = (call(image, tags=Stage.INFERENCE.tags) for call in (compiled, model))
        assert expected["det/scores"].any() == (bias > 0)
        for name in ("det/boxes", "det/scores", "det/labels"):
            torch.testing.assert_close(outputs[name], expected[name])
    assert backend.graphs == 1


@pytest.mark.slow
@torch.no_grad()
def test_detection_is_exported_with_a_dynamic_batch():
    model = detector().eval().sub_collection(tags=Stage.EXPORT.tags)
    shapes = {"named_inputs": {"image": {0: torch.export.Dim("batch")}}}
    program = torch.export.export(model, ({"image": torch.rand(2, 3, 128, 128)},), dynamic_shapes=shapes)
    for size in (1, 5):
        image = {"image": torch.rand(size, 3, 128, 128)}
        outputs, expected = program.module()(image), model(image)
        for name in ("det/boxes", "det/scores", "det/labels"):
            torch.testing.assert_close(outputs[name], expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_detector_overfits_four_images(variant):
    model, batch = detector(variant), rectangles()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(100):
        loss = model(batch, tags={"MODEL", "LOSS"})["det/loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    model.eval()
    with torch.no_grad():
        model(batch, tags=Stage.VALIDATION.tags)
    assert model.summarize(reset=True)["det/map_50"] > 0.9
