"""Jobs over 150 small images; the reference is `Predictor.predict`, one image per batch."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from brickyard import (
    BrickInputError,
    BrickMismatchError,
    MissingExtraError,
    Predictor,
    create_model,
)
from brickyard.inference.jobs import predict_rows
from tests.toys import ROOT, SOURCE

COUNT = 150
DAMAGED = {"0007.jpg": b"", "0040.jpg": b"not an image", "0119.jpg": None}  # None: truncated


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    create_model("test_resnet_cls_seg", num_classes={"cls": 7, "seg": 3}).save_pretrained(folder)
    return f"local-dir:{folder}"


def encoded(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(30, 90, 2)
    file = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        name = f"{number:04}.jpg"
        data = encoded(number)
        damaged = DAMAGED.get(name, data)
        (folder / name).write_bytes(data[: len(data) // 2] if damaged is None else damaged)
    return folder


@pytest.fixture(scope="module")
def expected(model, images) -> dict[str, dict]:
    """The predictions of `Predictor.predict` by file name."""
    predictor = Predictor(model, device="cpu", batch_size=1)
    return {prediction.file.name: prediction.to_json() for prediction in predictor.predict(images)}


def job(model: str, sources: list | Path, out: Path, **options) -> object:
    settings = {"shard_size": 40, "batch_size": 8, "device": "cpu", "workers": 0, "actors": 1, **options}
    texts = str(sources) if isinstance(sources, Path) else [str(source) for source in sources]
    return predict_rows(model, texts, out, **settings)


def rows_in(out: Path) -> list[dict]:
    """The rows of all parts, in order."""
    rows = []
    for part in sorted(out.glob("part-*")):
        if part.suffix == ".jsonl":
            rows += [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
        else:
            for row in pyarrow.parquet.read_table(part).to_pylist():
                texts = {head: row[head] and json.loads(row[head]) for head in ("cls", "seg")}
                rows.append({**row, **texts})
    return rows


def content(out: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in out.glob("part-*")}


def check(row: dict, prediction: dict) -> None:
    """Compare a row with the output of `Prediction.to_json`."""
    assert list(row) == ["file", "width", "height", "error", "cls", "seg"]
    if "error" in prediction:
        assert row["error"] == prediction["error"]
        assert [row[name] for name in ("width", "height", "cls", "seg")] == [None] * 4
        return
    assert row["error"] is None
    assert (row["width"], row["height"]) == (prediction["width"], prediction["height"])
    assert [result["label"] for result in row["cls"]] == [result["label"] for result in prediction["cls"]]
    for head, number in (("cls", "probability"), ("seg", "share")):
        values = {result["class"]: result[number] for result in row[head]}
        assert values == pytest.approx({result["class"]: result[number] for result in prediction[head]}, abs=1e-3)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.slow
def test_each_image_has_a_row_with_the_results_of_the_predictor(kind, model, images, expected, tmp_path):
    result = job(model, [images], tmp_path / "out", kind=kind, workers=2, actors=2)
    assert (result.images, result.unreadable, result.skipped) == (COUNT, len(DAMAGED), 0)
    rows = rows_in(tmp_path / "out")
    assert [row["file"] for row in rows] == [str(images / name) for name in sorted(expected)]
    for row in rows:
        check(row, expected[Path(row["file"]).name])
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["_job.json", *(f"part-00000{number}.{kind}" for number in range(4))]


def test_the_folder_is_one_table_with_one_schema(model, images, tmp_path):
    only_bad = tmp_path / "bad"
    only_bad.mkdir()
    for number in range(3):
        (only_bad / f"{number}.jpg").write_bytes(b"")
    job(model, [only_bad, images], tmp_path / "out", shard_size=3)
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert table.num_rows == COUNT + 3
    text, number = pyarrow.string(), pyarrow.int32()
    kinds = {"file": text, "width": number, "height": number, "error": text, "cls": text, "seg": text}
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == kinds


@pytest.mark.slow
def test_rows_do_not_depend_on_workers_and_threads(model, images, tmp_path):
    job(model, [images], tmp_path / "one")
    for number, options in enumerate([{"workers": 2, "actors": 1}, {"workers": 0, "actors": 4}]):
        job(model, [images], tmp_path / f"{number}", **options)
        assert content(tmp_path / f"{number}") == content(tmp_path / "one")
    assert torch.get_num_threads() == 1  # set by conftest


@pytest.mark.slow
def test_a_killed_job_resumes_to_the_same_rows(model, images, tmp_path):
    job(model, [images], tmp_path / "whole", shard_size=10)
    out = tmp_path / "out"
    settings = {"shard_size": 10, "batch_size": 8, "device": "cpu", "workers": 1, "actors": 1}
    call = f"predict_rows({model!r}, [{str(images)!r}], {str(out)!r}, **{settings})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)])}
    process = subprocess.Popen(
        [sys.executable, "-c", f"from brickyard.inference.jobs import *; {call}"], env=environment
    )
    while len(list(out.glob("part-*"))) < 3:
        assert process.poll() is None, "the job ended before it was killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out / ".part-000000.parquet-x.lock").touch()  # of a part that was whole before the kill
    (out / ".part-000014.parquet-x").mkdir(exist_ok=True)
    (out / ".part-000014.parquet-x" / "part-000014.parquet").write_bytes(b"half of a fi")  # left by a kill
    before = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*")}
    assert 3 <= len(before) < 15
    result = job(model, [images], out, shard_size=10)
    assert (result.images, result.skipped) == (COUNT - 10 * len(before), 10 * len(before))
    assert content(out) == content(tmp_path / "whole")
    assert not [file for file in out.iterdir() if file.name.startswith(".")]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    names = [row["file"] for row in rows_in(out)]
    assert len(names) == len(set(names)) == COUNT
    assert job(model, [images], out, shard_size=10).images == 0


def test_another_job_is_refused_and_the_rows_stay(model, images, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    for number in range(5):
        (other / f"{number}.jpg").parent.mkdir(exist_ok=True)
        (other / f"{number}.jpg").write_bytes(encoded(number))
    job(model, [other], out)
    before = content(out)
    untrained = tmp_path / "untrained"
    create_model("test_resnet_cls_seg", num_classes={"cls": 7, "seg": 3}).save_pretrained(untrained)
    for source, sources, options, message in [
        (model, [other, images], {}, "images: sha256 differs"),
        (model, [other], {"shard_size": 2}, "shard_size: expected 40, found 2"),
        (model, [other], {"batch_size": 2}, "batch_size: expected 8, found 2"),
        (model, [other], {"kind": "jsonl"}, "rows: expected parquet, found jsonl"),
        (f"local-dir:{untrained}", [other], {}, "cls/head differs"),
    ]:
        with pytest.raises(BrickMismatchError, match=message):
            job(source, sources, out, **options)
    (other / "0.jpg").write_bytes(encoded(9))
    with pytest.raises(BrickMismatchError, match="images: sha256 differs"):
        job(model, [other], out)
    assert content(out) == before


def test_a_job_resumes_with_the_same_model_from_another_source(model, images, tmp_path):
    job(model, [images], tmp_path / "out")
    assert job(model.removeprefix("local-dir:"), [images], tmp_path / "out").skipped == COUNT


def test_rows_of_an_unknown_job_are_refused(model, images, tmp_path):
    (tmp_path / "part-000000.parquet").write_bytes(b"unknown")
    with pytest.raises(BrickMismatchError, match=r"no _job\.json"):
        job(model, [images], tmp_path)


@pytest.mark.parametrize("text", [b"", b'{"format": 1, "ro'], ids=["empty", "truncated"])
def test_a_job_killed_before_its_first_rows_starts_again(text, model, images, tmp_path):
    (tmp_path / "_job.json").write_bytes(text)
    assert job(model, [images], tmp_path).images == COUNT
    assert json.loads((tmp_path / "_job.json").read_text())["images"]["count"] == COUNT
    (tmp_path / "_job.json").write_bytes(text)
    with pytest.raises(BrickMismatchError, match=r"_job\.json is not valid JSON"):
        job(model, [images], tmp_path)


def test_two_processes_do_not_run_one_job_at_the_same_time(model, images, tmp_path):
    job(model, [images], tmp_path)
    before = content(tmp_path)
    hold = "lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); sys.stdin.read()"
    code = f"import filelock, sys; {hold}"
    command = [sys.executable, "-c", code, str(tmp_path / "_job.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(BrickInputError, match="in use"):
            job(model, [images], tmp_path)
        other.kill()
    assert job(model, [images], tmp_path).skipped == COUNT
    assert content(tmp_path) == before


def test_rows_are_not_written_into_a_folder_of_images(model, images):
    with pytest.raises(BrickInputError, match="outside of"):
        job(model, [images], images / "out")
    assert not (images / "out").exists()


def test_a_source_without_images_creates_no_folder(model, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(BrickInputError, match=name):
            job(model, [tmp_path / name], tmp_path / "out")
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), tmp_path / "t.parquet")
    with pytest.raises(BrickInputError, match=r"t\.parquet: expected images, found tables without rows"):
        job(model, [tmp_path / "t.parquet"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_with_the_name_of_a_column_is_refused(images, tmp_path):
    create_model(backbone="test_resnet", tasks={"width": "cls"}, num_classes=2).save_pretrained(tmp_path / "model")
    with pytest.raises(BrickInputError, match="width"):
        job(f"local-dir:{tmp_path / 'model'}", [images], tmp_path / "out")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_undecodable_file_names_do_not_stop_a_job(kind, model, tmp_path):
    (tmp_path / "in").mkdir()
    for name in (b"a\xff.jpg", b"b\xfe.jpg"):
        with open(os.fsencode(tmp_path / "in") + b"/" + name, "wb") as file:
            file.write(encoded(0) if name.startswith(b"a") else b"not an image")
    assert job(model, [tmp_path / "in"], tmp_path / "out", kind=kind).unreadable == 1
    names = [os.path.basename(row["file"]) for row in rows_in(tmp_path / "out")]
    assert names == (["a\\udcff.jpg", "b\\udcfe.jpg"] if kind == "parquet" else ["a\udcff.jpg", "b\udcfe.jpg"])


@pytest.mark.parametrize(("kind", "module"), [("parquet", "pyarrow.parquet"), ("jsonl", "ray")])
def test_a_missing_package_is_an_error_that_names_the_extra(kind, module, model, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'brickyard\[scale\]'"):
        job(model, [images], tmp_path / "out", kind=kind, engine="ray")
    assert not (tmp_path / "out").exists()


def test_a_single_source_needs_no_list(model, images, tmp_path):
    assert job(model, images, tmp_path).images == COUNT


def test_a_folder_of_rows_with_the_name_of_a_model_is_not_a_model(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "test_resnet_cls-multilabel_seg-tower_det.digits_v1"
    for before in (0, COUNT):
        assert job(name, images, name).skipped == before


def test_an_empty_part_is_written_again(model, images, tmp_path):
    job(model, images, tmp_path)
    before = content(tmp_path)
    (tmp_path / "part-000001.parquet").write_bytes(b"")
    assert job(model, images, tmp_path).images == 40
    assert content(tmp_path) == before


def test_nothing_is_written_through_a_link(model, images, tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".part-000000.parquet").symlink_to(tmp_path / "other")
    job(model, images, tmp_path / "out")
    assert (tmp_path / "other").read_text() == "other"
    assert not (tmp_path / "out" / "part-000000.parquet").is_symlink()
