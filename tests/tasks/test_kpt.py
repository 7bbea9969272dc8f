import numpy as np
import pytest
import torch

from brickyard import BrickInputError, Stage, create_model
from brickyard.core.specs import HeadInfo
from brickyard.data.geometry import resize_geometry
from brickyard.tasks.registry import get_task
from tests.tasks import checks

LABELS = ["nose", "left eye", "right eye"]


def dots(count=8, size=64):
    """A red, a green and a blue dot on noise."""
    torch.manual_seed(0)
    image, target = 0.2 * torch.rand(count, 3, size, size), torch.full((count, 3, 3), 2.0)
    target[..., :2] = torch.rand(count, 3, 2) * (size - 16) + 8
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    for row in range(count):
        for point in range(3):
            away = (x - target[row, point, 0]) ** 2 + (y - target[row, point, 1]) ** 2
            image[row, point] += 0.8 * torch.exp(-away / 18)
    return {"image": image.clamp(0, 1), "targets/kpt": target}


def model_of(variant="", labels=LABELS):
    torch.manual_seed(0)
    return create_model(f"test_resnet_kpt{variant}", labels=labels)


def test_the_default_is_the_17_of_a_body():
    model = create_model("test_resnet_kpt")
    assert model["kpt/head"].head == HeadInfo("kpt", "fpn", tuple(str(k) for k in range(17)))
    assert model.required_inputs(tags=Stage.TRAIN.tags) == ["image", "targets/kpt"]


@pytest.mark.parametrize("variant", ["fpn", "deconv"])
@pytest.mark.parametrize(
    ("backbone", "size"), [("test_resnet", (97, 131)), ("test_convnext", (97, 131)), ("test_vit", (160, 160))]
)
def test_keypoints_are_within_the_image_on_any_backbone(backbone, size, variant):
    model = create_model(f"{backbone}_kpt-{variant}", num_classes=5).eval()
    values = model({"image": torch.rand(2, 3, *size)}, tags=Stage.INFERENCE.tags)
    assert values["kpt/keypoints"].shape == (2, 5, 2)
    assert (values["kpt/keypoints"] > 0).all()
    assert (values["kpt/keypoints"] < torch.tensor([size[1], size[0]])).all()
    assert ((values["kpt/scores"] > 0) & (values["kpt/scores"] <= 1)).all()
    assert values["kpt/heatmaps"].shape[2] >= size[0] / 8


@pytest.mark.parametrize("variant", ["-fpn", "-deconv"])
def test_every_weight_of_the_head_is_trained(variant):
    checks.assert_every_weight_is_trained(model_of(variant), dots(2), "kpt")


def test_eight_images_are_learned():
    model, batch = model_of(), dots()
    checks.learned(model, batch, "kpt/loss", steps=60)
    summary = model.summarize(reset=True)
    assert summary["kpt/PCK@0.1"] == 1
    assert summary["kpt/PixelError"] < 0.5  # of cells of 4 pixels


def test_unlabelled_rows_do_not_matter():
    checks.assert_unlabelled_rows_do_not_matter(model_of(), dots(3), "kpt", nonsense=torch.nan)


def test_without_labels_the_loss_is_zero():
    checks.assert_without_labels_the_loss_is_zero(model_of(), dots(2), "kpt")


def test_it_is_stored_and_swapped(tmp_path):
    checks.assert_stored_and_swapped(model_of(), "kpt", "kpt/keypoints", tmp_path)


def test_labels_of_another_shape_are_refused_by_the_label_s_name():
    batch = dots(2)
    batch["targets/kpt"] = batch["targets/kpt"][:, :2]
    with pytest.raises(
        BrickInputError, match=r"targets/kpt: expected a tensor \(B, K, 3\) = \(2, 3, 3\), found \(2, 2, 3\)"
    ):
        model_of()(batch, tags=checks.TRAINED)


def test_two_points_are_drawn_at_their_positions():  # of shape (2, 2): rows and columns could be confused
    model = model_of(labels=["a", "b"])
    model["kpt/visualization"].model.score_threshold = 0.0
    image = torch.zeros(1, 3, 120, 200)
    values = {"image": image, "kpt/keypoints": torch.tensor([[[50.0, 20.0], [150.0, 90.0]]])}
    values["kpt/scores"] = torch.tensor([[0.5, 0.9]])
    drawn = np.asarray(model["kpt/visualization"](values)["kpt/visualization"][0])
    assert drawn.shape[0] > 120, "a legend is below"
    assert drawn[20, 50].any()
    assert drawn[90, 150].any()
    assert not drawn[50, 20].any()


def test_a_predictor_returns_points_in_pixels_of_the_original_image(tmp_path):
    model = model_of().eval()
    prediction = checks.predicted(model, tmp_path)
    results = prediction.results["kpt"]
    assert {each["label"] for each in results} == set(LABELS)
    assert [each["score"] for each in results] == sorted((each["score"] for each in results), reverse=True)
    assert all(0 < each["x"] < 400 and 0 < each["y"] < 120 for each in results)
    assert prediction.visualization.width == 400
    assert prediction.visualization.height >= 120


def test_points_scale_with_the_image_size():
    values = {"keypoints": np.array([[10.0, 20.0], [30.0, 40.0], [0.0, 1.0]]), "scores": np.array([0.1, 0.9, 0.5])}
    task = get_task("kpt")
    results = task.results(task.on_image(values, resize_geometry((200, 200), (100, 50), "squash")), LABELS)
    assert [(each["label"], each["x"], each["y"]) for each in results] == [
        ("left eye", 120.0, 80.0),
        ("right eye", 0.0, 2.0),
        ("nose", 40.0, 40.0),
    ]


@pytest.mark.slow
def test_the_exported_file_gives_the_same(tmp_path):
    checks.assert_exported(model_of(), tmp_path, "kpt")
