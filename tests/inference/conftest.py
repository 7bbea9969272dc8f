from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brickyard import BrickCollection, Predictor, create_model


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    return create_model("test_vit_cls", labels=[f"class {number}" for number in range(7)]).eval()


@pytest.fixture
def predictor(model) -> Predictor:
    return Predictor(model, device="cpu", batch_size=2)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with five images of different sizes and two files that are not images."""
    generator = np.random.default_rng(0)
    for name, (height, width) in {"a": (40, 60), "b": (60, 40), "c": (33, 33), "e": (200, 90), "g": (90, 200)}.items():
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "d.jpg").write_text("not an image")
    (tmp_path / "f.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    return tmp_path
