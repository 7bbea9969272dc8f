"""A fault of the machine stops a job, which resumes; only damaged content becomes a row with an error."""

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brickyard import BrickInputError, Predictor, create_model
from brickyard.inference.jobs import predict_rows

FAULTS = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    create_model("test_resnet_cls", num_classes=3).save_pretrained(folder)
    return f"local-dir:{folder}"


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "7.png").write_text("damaged")
    return folder


def job(model: str, images: Path, out: Path, **options: object) -> object:
    settings = {"kind": "jsonl", "shard_size": 2, "batch_size": 2, "device": "cpu", "actors": 1, "workers": 0}
    return predict_rows(model, str(images), out, **settings | options)


def content(out: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in out.glob("part-*")}


@pytest.mark.parametrize(("number", "workers"), [*((number, 0) for number in FAULTS), (errno.EMFILE, 1)])
def test_a_fault_of_the_machine_stops_a_job_which_resumes(number, workers, model, images, tmp_path, monkeypatch):
    opened = Image.open

    def failing(file, *arguments):
        if str(file).endswith("4.png"):
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, *arguments)

    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(OSError, match=r"4\.png") as caught:
        job(model, images, tmp_path / "out", workers=workers)
    assert caught.value.errno == number
    before = content(tmp_path / "out")
    rows = [json.loads(line) for part in before.values() for line in part.decode().splitlines()]
    assert all(row["error"] is None for row in rows)
    monkeypatch.undo()
    result = job(model, images, tmp_path / "out", workers=workers)
    assert (result.unreadable, result.skipped) == (1, 2 * len(before))
    job(model, images, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_file_that_is_gone_is_a_row_with_an_error(model, images):
    predictions = Predictor(model, device="cpu", batch_size=1).predict(images)
    (images / "3.png").unlink()
    errors = [prediction.error for prediction in predictions]
    assert [error is None for error in errors] == [True, True, True, False, True, True, True, False]


def test_two_threads_do_not_run_one_job_at_the_same_time(model, images, tmp_path):
    job(model, images, tmp_path / "whole")
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(job(model, images, tmp_path / "out"))
        except BrickInputError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert sum(getattr(each, "images", 0) for each in outcomes) == 8
    assert all("in use" in str(each) for each in outcomes if isinstance(each, BrickInputError))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
