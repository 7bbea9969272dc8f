"""Metadata is read from files that may not be trusted."""

import json
import re

import pytest

from brickyard import BrickMismatchError, create_model
from brickyard.export.metadata import ExportMetadata, metadata_of
from brickyard.recipe.inspection import images_of


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    model = create_model("test_resnet_cls", num_classes=2)
    return metadata_of(model, images_of(model.bricks())).to_text()


def test_metadata_survives_a_round_trip(texts):
    metadata = ExportMetadata.from_text(texts, "model.onnx")
    assert metadata.to_text() == texts
    assert (metadata.image.size, list(metadata.heads)) == ((160, 160), ["cls"])


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("image", {"size": [100_000, 100_000]}),
        ("image", {"size": [0, 0]}),
        ("image", {"size": "a"}),
        ("image", {"channels": 1.5}),
        ("image", {"crop_pct": -1}),
        ("image", {"resize_mode": "zz"}),
        ("image", {"normalized_inside": None}),
        ("image", {"interpolation": "zz"}),
        ("heads", {"cls": "x"}),
        ("heads", {"cls": {}}),
        ("heads", {"cls": {"task": ["cls"], "variant": "linear", "labels": ["a"]}}),
        ("heads", {"cls": {"task": "cls", "variant": "linear", "labels": 5}}),
        ("heads", {"cls": {"task": "cls", "variant": "linear", "labels": [["a"]]}}),
        ("heads", None),
        ("python_bricks", []),
        ("bricks", 5),
    ],
)
def test_invalid_metadata_is_refused_with_the_name_of_the_file(texts, key, change):
    before = json.loads(texts[f"brickyard.{key}"])
    changed = {**before, **change} if isinstance(change, dict) else change
    with pytest.raises(BrickMismatchError, match=re.escape("model.onnx")):
        ExportMetadata.from_text({**texts, f"brickyard.{key}": json.dumps(changed)}, "model.onnx")
