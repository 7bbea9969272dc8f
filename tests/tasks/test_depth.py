import numpy as np
import pytest
import torch
from torch.nn import functional

from brickyard import BrickInputError, Stage, create_model
from brickyard.data.geometry import resize_geometry
from brickyard.tasks.registry import get_task
from tests.tasks import checks


def ramps(count=8, size=64):
    """Slopes in two directions, as bright as they are far."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    depth = 1 + 4 * torch.rand(count, 1, 1) * x + 3 * torch.rand(count, 1, 1) * y
    return {"image": (depth / 9)[:, None].repeat(1, 3, 1, 1), "targets/depth": depth}


def model_of(variant=""):
    torch.manual_seed(0)
    return create_model(f"test_resnet_depth{variant}")


@pytest.mark.parametrize("variant", ["fpn", "unet"])
@pytest.mark.parametrize(
    ("backbone", "size"), [("test_resnet", (97, 131)), ("test_convnext", (97, 131)), ("test_vit", (160, 160))]
)
def test_depth_has_the_size_of_the_image_on_any_backbone(backbone, size, variant):
    model = create_model(f"{backbone}_depth-{variant}").eval()
    values = model({"image": torch.rand(2, 3, *size)}, tags=Stage.INFERENCE.tags)
    expected = functional.interpolate(values["depth/coarse"], size, mode="bilinear", align_corners=False).exp()
    torch.testing.assert_close(values["depth/depth"], expected)


@pytest.mark.parametrize("variant", ["-fpn", "-unet"])
def test_every_weight_of_the_head_is_trained(variant):
    checks.assert_every_weight_is_trained(model_of(variant), ramps(2), "depth")


def test_eight_images_are_learned():
    model, batch = model_of(), ramps()
    before, after = checks.learned(model, batch, "depth/loss", steps=50)
    assert after < 0.05 * before
    summary = model.summarize(reset=True)
    assert summary["depth/Delta1"] > 0.95
    assert summary["depth/AbsRel"] < 0.15


@pytest.mark.parametrize("nonsense", [torch.nan, -1.0, torch.inf])
def test_unlabelled_rows_do_not_matter(nonsense):
    checks.assert_unlabelled_rows_do_not_matter(model_of(), ramps(3), "depth", nonsense)


@pytest.mark.parametrize("unknown", [0.0, -5.0, torch.nan, torch.inf])
def test_pixels_of_unknown_depth_do_not_matter(unknown):
    model, batch = model_of().eval(), ramps(2)
    batch["targets/depth"][:, :, 32:] = unknown
    batch["image"].requires_grad_()
    values = model(batch, tags=Stage.VALIDATION.tags)
    gradient = torch.autograd.grad(values["depth/loss"], values["depth/log_depth"])[0]
    assert gradient[..., :32].any()
    assert not gradient[..., 32:].any()
    assert all(value.isfinite() for value in model.summarize(reset=True).values())


def test_without_labels_the_loss_is_zero():
    checks.assert_without_labels_the_loss_is_zero(model_of(), ramps(2), "depth")


def test_it_is_stored_and_swapped(tmp_path):
    checks.assert_stored_and_swapped(model_of(), "depth", "depth/depth", tmp_path)


def test_a_number_of_classes_and_a_target_of_another_size_are_refused():
    with pytest.raises(BrickInputError, match="num_classes of 'depth': expected 1"):
        create_model("test_resnet_depth", num_classes=3)
    with pytest.raises(
        BrickInputError, match=r"targets/depth: expected a tensor \(B, H, W\) = \(2, 64, 64\), found \(2, 32, 32\)"
    ):
        model_of()({**ramps(2), "targets/depth": torch.ones(2, 32, 32)}, tags=checks.TRAINED)


def test_a_predictor_returns_depths_and_draws_them_onto_the_image(tmp_path):
    prediction = checks.predicted(model_of(), tmp_path)
    (result,) = prediction.results["depth"]
    assert 0 < result["nearest"] <= result["median"] <= result["farthest"]
    assert prediction.visualization.width == 400
    assert prediction.visualization.height > 120


def test_near_pixels_are_drawn_bright():
    draw = model_of()["depth/visualization"].model
    depth = np.linspace(1, 5, 400, dtype=np.float32)[None, :, None].repeat(100, axis=0)
    drawn = np.asarray(draw(np.full((100, 400, 3), 128, np.uint8), depth).convert("L"))[:100].astype(float)
    assert (np.diff(drawn.mean(axis=0)[::20]) < 0).all()
    turned = get_task("depth").on_image(
        {"depth": depth.transpose(2, 0, 1)}, resize_geometry((100, 400), (100, 400), "squash")
    )
    np.testing.assert_array_equal(turned["depth"], depth)


@pytest.mark.slow
def test_the_exported_file_gives_the_same(tmp_path):
    checks.assert_exported(model_of(), tmp_path, "depth")
