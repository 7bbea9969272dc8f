"""What holds for `inst`, for `pose`, and for both on one tower."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from brickyard import BrickCollection, BrickInputError, Stage, create_model, create_model_for, export_onnx
from brickyard.core.specs import HeadInfo
from brickyard.data.collate import collate
from brickyard.data.synthetic.digits import DigitScenes
from brickyard.export.onnx_runner import OnnxSession
from brickyard.export.parity import differences
from tests.private_names import compile_aot_eager
from tests.tasks import checks
from tests.tasks.shapes import CORNERS, ENTRIES, LABELS, head_of, model_of, padded, triangles

TOKENS = list(ENTRIES)
SHAPES = {"boxes": (4,), "scores": (), "labels": (), "masks": (24, 24), "keypoints": (3, 3)}
LOSSES = {
    "inst": ["loss_cls", "loss_box", "loss_centerness", "loss_mask"],
    "pose": ["loss_cls", "loss_box", "loss_centerness", "loss_point", "loss_visible"],
    "pose-masks": ["loss_cls", "loss_box", "loss_centerness", "loss_mask", "loss_point", "loss_visible"],
}
METRICS = {"inst": ["map", "map_50"], "pose": ["map", "map_50"], "pose-masks": ["map_50", "mask_map_50"]}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("token", TOKENS)
def test_a_head_reads_and_writes_what_its_task_says(token):
    model, batch, head = model_of(token).eval(), triangles(token), head_of(token)
    outputs = model(batch)
    for name in ("boxes", "scores", "labels", *ENTRIES[token]):
        assert outputs[f"{head}/{name}"].shape == (4, 100, *SHAPES[name])
    assert outputs[f"{head}/labels"].dtype == torch.int64
    assert (outputs[f"{head}/scores"].diff(dim=1) <= 0).all(), "best first"
    assert set(model.extract_losses(outputs)) == {f"{head}/loss"}
    terms = [outputs[f"{head}/{name}"] for name in LOSSES[token]]
    torch.testing.assert_close(outputs[f"{head}/loss"], sum(terms))
    assert [drawn.size for drawn in outputs[f"{head}/visualization"]] == [(96, 96)] * 4
    assert {f"{head}/{name}" for name in METRICS[token]} <= set(model.summarize(reset=True))
    variant = token.partition("-")[2] or "fcos"
    keypoints = CORNERS if head == "pose" else None
    assert model[f"{head}/head"].head == HeadInfo(head, variant, tuple(LABELS), keypoints=keypoints)
    assert model.required_inputs(tags=Stage.EXPORT.tags) == ["image"]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    ("backbone", "size"), [("test_vit", (160, 160)), ("test_convnext", (97, 131)), ("test_resnet", (160, 224))]
)
def test_every_kind_of_backbone_and_odd_sizes_train(token, backbone, size):
    model, head = model_of(token, backbone), head_of(token)
    target = {"boxes": torch.tensor([[10.0, 20, 60, 90]]), "labels": torch.tensor([1])}
    entries = {"masks": torch.ones(1, *size, dtype=torch.bool), "keypoints": torch.full((1, 3, 3), 30.0)}
    target |= {name: entries[name] for name in ENTRIES[token]}
    batch = {"image": torch.rand(2, 3, *size), f"targets/{head}": [target] * 2}
    outputs = model(batch, tags=Stage.TRAIN.tags)
    outputs[f"{head}/loss"].backward()
    assert outputs[f"{head}/loss"].isfinite()
    assert all(parameter.grad is not None for parameter in model[f"{head}/head"].parameters())
    decoded = model.eval()({"image": batch["image"]}, tags=Stage.INFERENCE.tags)
    if "masks" in ENTRIES[token]:
        for side, cells in zip(size, decoded[f"{head}/masks"].shape[-2:], strict=True):
            assert cells in (side // 4, -(-side // 4)), "rounded as the maps of the backbone"


@pytest.mark.parametrize("token", TOKENS)
def test_rows_without_label_get_no_gradient(token):
    model, batch, head = model_of(token).eval(), triangles(token), head_of(token)  # BatchNorm would mix the rows
    batch["image"].requires_grad_()
    labelled = torch.tensor([True, False, True, False])
    model({**batch, f"labelled/{head}": labelled}, tags=Stage.TRAIN.tags)[f"{head}/loss"].backward()
    assert not batch["image"].grad[~labelled].any()
    assert batch["image"].grad[labelled].flatten(1).any(dim=1).all()


@pytest.mark.parametrize("token", TOKENS)
def test_a_batch_without_label_is_a_finite_zero_that_reaches_every_parameter(token):
    model, head = model_of(token), head_of(token)
    batch = {**triangles(token), f"labelled/{head}": torch.zeros(4, dtype=torch.bool)}
    loss = model(batch, tags=Stage.TRAIN.tags)[f"{head}/loss"]
    loss.backward()
    assert loss.item() == 0
    for parameter in model[f"{head}/head"].parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize("token", TOKENS)
def test_padded_targets_have_the_same_loss(token):
    model, batch, head = model_of(token).eval(), triangles(token), head_of(token)
    values = [model(each, tags=Stage.TRAIN.tags)[f"{head}/loss"] for each in (batch, padded(batch, token))]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("token", TOKENS)
def test_objects_to_ignore_are_no_background_and_do_not_count_against_the_metric(token):
    model, batch, head = model_of(token).eval(), triangles(token), head_of(token)
    for target in batch[f"targets/{head}"]:
        target["ignore"] = torch.ones(len(target["labels"]), dtype=torch.bool)
    outputs = model(batch, tags=Stage.VALIDATION.tags)
    assert outputs[f"{head}/loss_box"] == 0
    assert model.summarize(reset=True)[f"{head}/map"].isnan()


@pytest.mark.parametrize(
    ("token", "entry", "message"),
    [
        ("inst", {"masks": torch.zeros(1, 48, 48, dtype=torch.uint8)}, r'"masks" .*\(1, 96, 96\), found \(1, 48, 48\)'),
        ("inst", {"masks": torch.zeros(2, 96, 96, dtype=torch.uint8)}, r'"masks" .*\(1, 96, 96\), found \(2, 96, 96\)'),
        ("inst", {"masks": torch.zeros(1, 96, 96)}, '"masks" of an integer or bool dtype'),
        ("pose", {"keypoints": torch.zeros(1, 4, 3)}, r'"keypoints" \(1, 3, 3\) .*found \(1, 4, 3\)'),
        ("pose", {"keypoints": torch.zeros(1, 3, 2)}, r'"keypoints" \(1, 3, 3\) .*found \(1, 3, 2\)'),
        ("pose-masks", {"masks": torch.zeros(1, 48, 48, dtype=torch.uint8)}, r'"masks" .*found \(1, 48, 48\)'),
        ("inst", {"labels": torch.tensor([3])}, r"box 0: expected a class in \[0, 3\), found 3"),
    ],
)
def test_bad_targets_name_the_label_and_the_row(token, entry, message):
    batch, head = triangles(token), head_of(token)
    batch[f"targets/{head}"][2] |= entry
    with pytest.raises(BrickInputError, match=rf"targets/{head}, row 2.*{message}"):
        model_of(token)(batch, tags=Stage.TRAIN.tags)


def test_masks_that_a_head_needs_and_the_labels_lack_are_told():
    with pytest.raises(BrickInputError, match=r"objects with \['masks', 'keypoints'\], found no \['masks'\]"):
        model_of("pose-masks")(triangles("pose"), tags=Stage.TRAIN.tags)


@pytest.mark.parametrize("token", TOKENS)
def test_a_saved_head_is_the_same_and_can_be_swapped(token, tmp_path):
    head = head_of(token)
    output = f"{head}/{ENTRIES[token][0]}"
    model = model_of(token).eval()
    checks.assert_stored_and_swapped(model, head, output, tmp_path)
    again = BrickCollection.from_pretrained(tmp_path / "model").eval()
    assert again[f"{head}/head"].head == model[f"{head}/head"].head
    assert isinstance(again(triangles(token))[f"{head}/visualization"][0], Image.Image)
    other = create_model(f"test_resnet_{token}", num_classes=5)
    other.swap("backbone", model["backbone"])
    other.swap(head, f"{tmp_path / 'model'}/{head}")  # of another number of classes and of key points
    image = {"image": torch.rand(2, 3, 64, 64)}
    torch.testing.assert_close(other.eval()(image, outputs=[output])[output], model(image, outputs=[output])[output])


@pytest.mark.parametrize("token", TOKENS)
def test_labels_are_drawn_like_predictions(token):
    from brickyard.training.validation_images import draw_batch  # noqa: PLC0415

    head = head_of(token)
    batch = triangles(token)
    batch[f"targets/{head}"][0]["ignore"] = torch.tensor([False, True])
    images = draw_batch(model_of(token).eval(), batch, 2)[f"{head}/visualization"]
    right = [np.asarray(image)[:, 100:] for image in images]  # labels are to the right of the predictions
    red = (right[0][..., 0] > 200) & (right[0][..., 1] < 90)
    assert red.any(), "the first class"
    assert len(images) == 2


class Counter:
    """`aot_eager`, counting how often it was asked to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return compile_aot_eager(graph, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("token", TOKENS)
def test_a_training_step_on_padded_targets_is_one_graph_for_any_number_of_objects(token):
    model, backend, head = model_of(token), Counter(), head_of(token)
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend=backend, fullgraph=True)
    batch = triangles(token)
    for count in (2, 0, 1):
        target = batch[f"targets/{head}"]
        target[0] = {name: value[:count] for name, value in target[0].items()}
        losses = [call(padded(batch, token), tags={"MODEL", "LOSS"})[f"{head}/loss"] for call in (model, compiled)]
        torch.testing.assert_close(*losses)
        for loss in losses:
            loss.backward()
    assert backend.graphs == 1
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("token", TOKENS)
def test_inference_is_one_graph_with_and_without_objects(token):
    model, backend, head = model_of(token).eval(), Counter(), head_of(token)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for bias in (-9.0, 3.0):
        torch.nn.init.constant_(model[f"{head}/head"].model.logits.bias, bias)
        image = {"image": triangles(token)["image"]}
        outputs, expected = (call(image, tags=Stage.INFERENCE.tags) for call in (compiled, model))
        assert expected[f"{head}/scores"].any() == (bias > 0)
        for name in ("boxes", "scores", "labels", *ENTRIES[token]):
            torch.testing.assert_close(outputs[f"{head}/{name}"], expected[f"{head}/{name}"])
    assert backend.graphs == 1


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("token", TOKENS)
def test_onnxruntime_has_the_same_objects(token, tmp_path):
    model, head = model_of(token).eval(), head_of(token)
    for parameter in model[f"{head}/head"].model.logits.parameters():  # scores that are spread over (0, 1)
        parameter.normal_(std=0.3)
    export_onnx(model, tmp_path / "model.onnx", image_size=64)  # compared with the model when it is written
    session = OnnxSession(tmp_path / "model.onnx")
    names = {f"{head}/{name}" for name in ("boxes", "scores", "labels", *ENTRIES[token])}
    assert set(session.outputs) == names
    assert session.metadata.heads[head].get("keypoints") == (CORNERS.to_json() if head == "pose" else None)
    image = torch.rand(5, 3, 64, 64)
    expected = {name: value.numpy() for name, value in model({"image": image}, outputs=session.outputs).items()}
    assert (expected[f"{head}/labels"] >= 0).any(axis=1).all()
    found = session({"image": image.numpy()})
    assert differences(expected, found) == []
    changed = f"{head}/{ENTRIES[token][0]}"
    assert differences({**expected, changed: 0.9 * expected[changed]}, found) != []


@pytest.mark.slow
@pytest.mark.parametrize("token", TOKENS)
def test_eight_digit_scenes_are_learned(token):
    scenes, head = DigitScenes("train", 8), head_of(token)
    torch.manual_seed(0)
    model = create_model_for(scenes, f"test_resnet_{token}")
    samples = [{name: scene[name] for name in ("image", f"targets/{head}")} for scene in scenes]
    checks.learned(model, collate(samples, scenes.kinds), f"{head}/loss", steps=250)
    summary = model.summarize(reset=True)
    for name in METRICS[token]:
        if name.endswith("map_50"):
            assert summary[f"{head}/{name}"] > 0.95, name
