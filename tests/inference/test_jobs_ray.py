"""Two Ray actors on this machine, in a job and in `map_batches`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from brickyard import Predictor, create_model
from brickyard.inference.jobs import predict_rows
from tests.toys import ROOT, SOURCE

COUNT = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    create_model("test_resnet_cls", num_classes=7).save_pretrained(folder)
    return f"local-dir:{folder}"


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number % 30, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.png")
    (folder / "0033.png").write_bytes(b"not an image")
    return folder


# Ray starts processes and threads, so each test runs it in a separate process.

_JOB = """
import json, sys
from brickyard.inference.jobs import predict_rows
model, images, out = sys.argv[1:]
for _ in range(2):
    result = predict_rows(model, [images], out, engine="ray", shard_size=30, batch_size=8, device="cpu", actors=2)
    print(json.dumps([result.images, result.unreadable, result.skipped]))
"""

_MAP = """
import sys
import numpy as np
import ray
from brickyard import Predictor

ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
images = np.load(sys.argv[2])
rows = [{"path": f"{number}.jpg", "image": image} for number, image in enumerate(images)]
done = ray.data.from_items(rows, override_num_blocks=4).map_batches(
    Predictor,
    fn_constructor_args=(sys.argv[1],),
    fn_constructor_kwargs={"device": "cpu", "outputs": ["cls/logits"]},
    compute=ray.data.ActorPoolStrategy(size=2),
    batch_size=4,
)
taken = done.take_all()
names = [row["path"] for row in taken]
np.savez(sys.argv[3], names=names, columns=sorted(taken[0]), logits=np.stack([row["cls/logits"] for row in taken]))
ray.shutdown()
"""


def run(code: str, *arguments: object, folder: Path | None = None) -> str:
    """Run code in a new interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_actors_write_the_same_bytes_as_the_local_engine(model, images, tmp_path):
    results = [json.loads(line) for line in run(_JOB, model, images, tmp_path / "ray").splitlines()]
    assert results == [[COUNT, 1, 0], [0, 0, COUNT]]  # the second run has nothing to do
    predict_rows(
        model, [str(images)], tmp_path / "local", shard_size=30, batch_size=8, device="cpu", workers=0, actors=1
    )
    files = {
        folder: {file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()} for folder in ("ray", "local")
    }
    assert len(files["ray"]) == 5
    assert files["ray"] == files["local"]


@pytest.mark.slow
def test_map_batches_takes_the_class_as_it_is(model, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (22, 3, 160, 160), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    run(_MAP, model, tmp_path / "images.npy", tmp_path / "mapped.npz")
    mapped = np.load(tmp_path / "mapped.npz")
    assert mapped["columns"].tolist() == ["cls/logits", "path"]
    logits = Predictor(model, device="cpu")({"image": images})["cls/logits"]
    expected = {f"{number}.jpg": row for number, row in enumerate(logits)}
    assert sorted(mapped["names"].tolist()) == sorted(expected)
    for name, row in zip(mapped["names"].tolist(), mapped["logits"], strict=True):
        np.testing.assert_allclose(row, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_pipeline_of_the_documentation_runs(tmp_path):
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python no-run\n([^`]*map_batches[^`]*)```", page)
    create_model("tf_efficientnet_lite0_cls.in1k", pretrained=True).lock(tmp_path / "model.lock.json")
    (tmp_path / "photos").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    run(block, folder=tmp_path)
    rows = pyarrow.parquet.read_table(tmp_path / "rows").to_pylist()
    predicted = {Path(row["path"]).name: row["cls/class_prediction"] for row in rows}
    predictor = Predictor(tmp_path / "model.lock.json", device="cpu")
    best = predictor({"image": images.transpose(0, 3, 1, 2)})["cls/class_prediction"]
    assert predicted == {f"{number}.png": label for number, label in enumerate(best.tolist())}
