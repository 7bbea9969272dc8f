"""A training in each of Lightning's precisions, images of the validation included."""

from pathlib import Path

import pytest
import torch

from brickyard import BrickCollection, Predictor, create_model
from brickyard.storage.weights import read_weights
from brickyard.training.config import TrainingConfig
from brickyard.training.fit import fit
from tests.runs import Rectangles, small_model
from tests.toys import SOURCE

SAMPLE = SOURCE / "brickyard" / "samples" / "coffee.jpg"


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.float32),
        ("bf16-true", torch.bfloat16),
        pytest.param(
            "16-mixed", torch.float32, marks=pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported")
        ),
        ("64-true", torch.float64),
    ],
)
def test_a_model_is_trained_clipped_averaged_drawn_and_saved(
    precision: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    config = TrainingConfig(steps=2, batch_size=2, every=2, clip=1.0, ema=0.9, precision=precision)
    model = small_model()
    expected = fit(small_model(), Rectangles(3), Rectangles(2), tmp_path / "expected", TrainingConfig(**SHORT))
    metrics = fit(model, Rectangles(3), Rectangles(2), tmp_path / "run", config)
    assert metrics["validation/loss"] == pytest.approx(expected["validation/loss"], rel=0.05)
    assert len(list((tmp_path / "run" / "visualizations").iterdir())) == 6
    saved = read_weights(tmp_path / "run" / "best" / "cls" / "head.safetensors")["weight"]
    assert saved.dtype == dtype
    assert torch.equal(saved, model["cls/head"].model.weight)
    loaded = BrickCollection.from_pretrained(tmp_path / "run" / "best")["cls/head"].model.weight
    torch.testing.assert_close(loaded.double(), saved.double(), rtol=1e-6, atol=1e-7)


SHORT = {"steps": 2, "batch_size": 2, "every": 2, "clip": 1.0, "ema": 0.9}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_predictor_takes_a_model_of_any_precision(dtype: torch.dtype) -> None:
    expected, actual = (
        next(iter(Predictor(small_model().eval().to(kind)).predict([SAMPLE], draw=True)))
        for kind in (torch.float32, dtype)
    )
    assert actual.visualization is not None
    probabilities = [[row["probability"] for row in each.results["cls"]] for each in (expected, actual)]
    assert probabilities[1] == pytest.approx(probabilities[0], abs=0.02)


@pytest.mark.parametrize("variant", ["fcos", "retinanet", "ssdlite", "centernet"])
def test_detections_do_not_depend_on_the_default_dtype(variant: str) -> None:
    torch.manual_seed(0)
    model = create_model(f"test_resnet_det-{variant}", num_classes=2).eval()
    image = {"image": torch.rand(2, 3, 64, 64)}
    names = ["det/boxes", "det/scores", "det/labels"]
    with torch.no_grad():
        expected = model(image, outputs=names)
        try:
            torch.set_default_dtype(torch.float64)
            actual = model(image, outputs=names)
            double = model.double()(image, outputs=names)
        finally:
            torch.set_default_dtype(torch.float32)
    for name in names:
        assert torch.equal(actual[name], expected[name])
        assert double[name].dtype == expected[name].dtype
