import numpy as np
import pytest
import torch

from brickyard import BrickInputError, PadBoxes, Stage, create_model
from brickyard.core.specs import HeadInfo
from brickyard.data.geometry import resize_geometry
from brickyard.tasks.registry import get_task
from brickyard.tasks.selection import Selection
from tests.tasks import checks

LABELS = ["red", "green", "blue"]


def squares(count=8, size=64):
    """Two squares of 12 to 20 pixels in each image, of the colour of their class, on noise."""
    rng = np.random.default_rng(0)
    image, targets = 0.2 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)), []
    for row in range(count):
        boxes, labels = [], []
        for left in (2, size // 2):
            side, label = int(rng.integers(12, 21)), int(rng.integers(3))
            x, y = left + int(rng.integers(0, 8)), int(rng.integers(0, size - side))
            image[row, label, y : y + side, x : x + side] = 1
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)})
    return {"image": image, "targets/fomo": targets}


def model_of(labels=LABELS):
    torch.manual_seed(0)
    return create_model("test_resnet_fomo", labels=labels)


def test_the_default_is_a_tower_for_cocos_classes():
    model = create_model("test_resnet_fomo")
    assert model["fomo/head"].head == HeadInfo("fomo", "tower", tuple(str(k) for k in range(80)))
    assert model.required_inputs(tags=Stage.TRAIN.tags) == ["image", "targets/fomo"]


@pytest.mark.parametrize(
    ("backbone", "size"), [("test_resnet", (97, 131)), ("test_convnext", (97, 131)), ("test_vit", (160, 160))]
)
def test_points_are_within_the_image_on_any_backbone(backbone, size):
    model = create_model(f"{backbone}_fomo", num_classes=5).eval()
    model["fomo/decode"].model.score_threshold = 0.0
    values = model({"image": torch.rand(2, 3, *size)}, tags=Stage.INFERENCE.tags)
    assert values["fomo/points"].shape == (2, 100, 2)
    is_point = values["fomo/labels"] >= 0
    assert is_point.any()
    points = values["fomo/points"][is_point]
    assert (points > 0).all()
    assert (points < torch.tensor([size[1], size[0]]) + 4).all()
    assert (values["fomo/scores"].diff(dim=1) <= 0).all(), "best first"
    assert not values["fomo/points"][~is_point].any()


def test_the_head_is_small():
    model = create_model("tf_efficientnet_lite0_fomo", num_classes=10)
    assert sum(weight.numel() * 4 for weight in model["fomo"].parameters()) < 400_000  # bytes


def test_every_weight_of_the_head_is_trained():
    checks.assert_every_weight_is_trained(model_of(), squares(2), "fomo")


@pytest.mark.slow
def test_eight_images_are_learned():
    model, batch = model_of(), squares()
    checks.learned(model, batch, "fomo/loss", steps=80)
    summary = model.summarize(reset=True)
    assert set(summary) == {"fomo/F1", "fomo/Precision", "fomo/Recall"}
    assert summary["fomo/F1"] > 0.95
    values = model({"image": batch["image"]}, tags=Stage.INFERENCE.tags)
    for row, target in enumerate(batch["targets/fomo"]):
        centres = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
        found = values["fomo/points"][row, :2]
        assert torch.cdist(centres, found).amin(dim=1).max() < 4 * 2**0.5 + 1e-3, "the centres of the cells"


def test_unlabelled_rows_do_not_matter():
    nonsense = {"boxes": torch.tensor([[0.0, 0, 1e9, -5]]), "labels": torch.tensor([0])}
    checks.assert_unlabelled_rows_do_not_matter(model_of(), squares(3), "fomo", nonsense)


def test_without_labels_the_loss_is_zero():
    checks.assert_without_labels_the_loss_is_zero(model_of(), squares(2), "fomo")


def test_it_is_stored_and_swapped(tmp_path):
    checks.assert_stored_and_swapped(model_of(), "fomo", "fomo/points", tmp_path)


def test_bad_boxes_are_refused_by_the_label_s_name():
    batch = squares(2)
    batch["targets/fomo"][1]["labels"][0] = 3
    with pytest.raises(BrickInputError, match=r"targets/fomo, row 1, box 0: expected a class in \[0, 3\), found 3"):
        model_of()(batch, tags=checks.TRAINED)


def test_results_are_selected_points_in_pixels_of_the_original_image():
    task = get_task("fomo")
    values = {
        "points": np.array([[10.0, 20.0], [30.0, 40.0], [0.0, 0.0]], dtype=np.float32),
        "scores": np.array([0.9, 0.4, 0.0], dtype=np.float32),
        "labels": np.array([1, 2, -1]),
    }
    original = task.on_image(values, resize_geometry((200, 200), (100, 50), "squash"))
    assert task.results(original, LABELS) == [
        {"label": "green", "class": 1, "score": pytest.approx(0.9), "x": 40.0, "y": 40.0},
        {"label": "blue", "class": 2, "score": pytest.approx(0.4), "x": 120.0, "y": 80.0},
    ]
    for selection in (Selection(0.5), Selection(topk=1), Selection(classes=(1,))):
        selected = task.results(
            task.on_image(task.select(values, selection), resize_geometry((8, 8), (8, 8), "squash")), LABELS
        )
        assert [each["label"] for each in selected] == ["green"]


def test_two_points_are_drawn_at_their_positions():  # of shape (2, 2): rows and columns could be confused
    model = model_of()
    values = {
        "image": torch.zeros(1, 3, 120, 200),
        "fomo/points": torch.tensor([[[50.0, 20.0], [150.0, 90.0]]]),
        "fomo/scores": torch.tensor([[0.9, 0.5]]),
        "fomo/labels": torch.tensor([[0, 2]]),
    }
    drawn = np.asarray(model["fomo/visualization"](values)["fomo/visualization"][0])
    assert drawn.shape[0] > 120, "a legend is below"
    colors = model["fomo/visualization"].model.colors
    assert tuple(drawn[20, 50]) == colors[0]
    assert tuple(drawn[90, 150]) == colors[2]
    assert not drawn[50, 20].any()


@pytest.mark.parametrize("is_padded", [False, True])
def test_labels_are_drawn_as_the_centres_of_their_boxes(is_padded):
    batch = squares(2)
    batch["targets/fomo"][0]["ignore"] = torch.tensor([True, False])
    labels = batch["targets/fomo"]
    if is_padded:
        boxes, classes = PadBoxes(3)(squares(2)["targets/fomo"], batch["image"])
        labels = {"boxes": boxes, "labels": classes}
    outputs = get_task("fomo").labels_as_outputs(labels, 3)
    target = batch["targets/fomo"][1]
    expected = ((target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2).T.numpy()
    np.testing.assert_allclose(outputs["points"][1][:, :2], expected)
    assert outputs["points"][0].shape[1] == (16 if is_padded else 1), "without the box to ignore"
    drawn = model_of()["fomo/visualization"](
        {"image": batch["image"], **{f"fomo/{name}": value for name, value in outputs.items()}}
    )
    assert drawn["fomo/visualization"][1].height > 64


def test_a_predictor_returns_points_and_draws_them(tmp_path):
    model = model_of()
    model["fomo/visualization"].model.score_threshold = 0.0
    model["fomo/decode"].model.score_threshold = 0.0
    prediction = checks.predicted(model, tmp_path)
    results = prediction.results["fomo"]
    assert results
    assert [each["score"] for each in results] == sorted((each["score"] for each in results), reverse=True)
    assert all(-4 <= each["x"] <= 404 and -4 <= each["y"] <= 124 for each in results)
    assert prediction.visualization.width == 400
    assert prediction.visualization.height > 120


@pytest.mark.slow
def test_the_exported_file_gives_the_same(tmp_path):
    model, batch = model_of(), squares()
    checks.learned(model, batch, "fomo/loss", steps=10)
    checks.assert_exported(model, tmp_path, "fomo")
