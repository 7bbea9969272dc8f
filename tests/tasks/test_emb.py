import pytest
import torch

from brickyard import Stage, create_model
from tests.tasks import checks


def patterns_of(count=8, size=64):
    """Four identities, each a different pattern under much noise."""
    torch.manual_seed(0)
    kinds = torch.arange(count) % 4
    patterns = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4), size=size)
    return {"image": 0.4 * patterns[kinds] + 0.6 * torch.rand(count, 3, size, size), "targets/emb": kinds + 100}


def model_of(variant=""):
    torch.manual_seed(0)
    return create_model(f"test_resnet_emb{variant}", num_classes=16)


def test_the_default_is_a_vector_of_128_numbers():
    model = create_model("test_resnet_emb").eval()
    assert model({"image": torch.rand(2, 3, 64, 64)}, outputs=["emb/vector"])["emb/vector"].shape == (2, 128)
    assert model.required_inputs(tags=Stage.TRAIN.tags) == ["image", "targets/emb"]


@pytest.mark.parametrize("variant", ["linear", "mlp"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit"])
def test_vectors_have_length_one_on_any_backbone(backbone, variant):
    model = create_model(f"{backbone}_emb-{variant}", num_classes=5).eval()
    vectors = model({"image": torch.rand(3, 3, 160, 160)}, tags=Stage.INFERENCE.tags)["emb/vector"]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("variant", ["-linear", "-mlp"])
def test_every_weight_of_the_head_is_trained(variant):
    checks.assert_every_weight_is_trained(model_of(variant), patterns_of(), "emb")


def test_eight_images_are_learned():
    model, batch = model_of(), patterns_of()
    before, after = checks.learned(model, batch, "emb/loss", steps=30)
    assert after < 0.2 * before
    assert model.summarize(reset=True) == {"emb/Recall@1": 1, "emb/Recall@5": 1}


def test_a_training_step_gathers_no_vectors():
    model = model_of()
    model(patterns_of(), tags=Stage.TRAIN.tags)
    assert model.summarize(reset=True) == {}


def test_unlabelled_rows_do_not_matter():
    checks.assert_unlabelled_rows_do_not_matter(model_of(), patterns_of(9), "emb", nonsense=100)


def test_without_labels_the_loss_is_zero():
    checks.assert_without_labels_the_loss_is_zero(model_of(), patterns_of(), "emb")


def test_it_is_stored_and_swapped(tmp_path):
    checks.assert_stored_and_swapped(model_of(), "emb", "emb/vector", tmp_path)


def test_a_predictor_gives_the_vector_and_draws_it_under_the_image(tmp_path):
    prediction = checks.predicted(model_of(), tmp_path)
    (result,) = prediction.results["emb"]
    assert len(result["vector"]) == 16
    assert sum(number**2 for number in result["vector"]) == pytest.approx(1, abs=1e-4)
    assert prediction.visualization.width == 400
    assert prediction.visualization.height > 120
    strip = prediction.visualization.crop((0, 120, 400, prediction.visualization.height))
    assert len(strip.getcolors()) > 8


@pytest.mark.slow
def test_the_exported_file_gives_the_same(tmp_path):
    checks.assert_exported(model_of(), tmp_path, "emb")
