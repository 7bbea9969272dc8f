"""Jobs over some hundred small pictures; the reference is `Predictor.predict`, one picture after the other."""

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

# Of torch's advice, on a machine with one core.

COUNT = 150
DAMAGED = {"0007.jpg": b"", "0040.jpg": b"no picture", "0119.jpg": None}  # None: cut short


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
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        name = f"{number:04}.jpg"
        data = encoded(number)
        spoiled = DAMAGED.get(name, data)
        (folder / name).write_bytes(data[: len(data) // 2] if spoiled is None else spoiled)
    return folder


@pytest.fixture(scope="module")
def expected(model, pictures) -> dict[str, dict]:
    """What `Predictor.predict` says of each file."""
    predictor = Predictor(model, device="cpu", batch_size=1)
    return {prediction.file.name: prediction.to_json() for prediction in predictor.predict(pictures)}


def job(model: str, places: list | Path, out: Path, **options) -> object:
    settings = {"shard_size": 40, "batch_size": 8, "device": "cpu", "workers": 0, "actors": 1, **options}
    found = str(places) if isinstance(places, Path) else [str(place) for place in places]
    return predict_rows(model, found, out, **settings)


def rows_in(out: Path) -> list[dict]:
    """The rows of all parts, in their order."""
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


def check(row: dict, told: dict) -> None:
    """A row against what `Prediction.to_json` says."""
    assert list(row) == ["file", "width", "height", "error", "cls", "seg"]
    if "error" in told:
        assert row["error"] == told["error"]
        assert [row[name] for name in ("width", "height", "cls", "seg")] == [None] * 4
        return
    assert row["error"] is None
    assert (row["width"], row["height"]) == (told["width"], told["height"])
    assert [found["label"] for found in row["cls"]] == [found["label"] for found in told["cls"]]
    for head, number in (("cls", "probability"), ("seg", "share")):
        found = {each["class"]: each[number] for each in row[head]}
        assert found == pytest.approx({each["class"]: each[number] for each in told[head]}, abs=1e-3)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_there_is_a_row_for_each_picture_with_what_the_predictor_says(kind, model, pictures, expected, tmp_path):
    done = job(model, [pictures], tmp_path / "out", kind=kind, workers=2, actors=2)
    assert (done.pictures, done.unread, done.before) == (COUNT, len(DAMAGED), 0)
    rows = rows_in(tmp_path / "out")
    assert [row["file"] for row in rows] == [str(pictures / name) for name in sorted(expected)]
    for row in rows:
        check(row, expected[Path(row["file"]).name])
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["_job.json", *(f"part-00000{number}.{kind}" for number in range(4))]


def test_the_folder_is_one_table_with_one_schema(model, pictures, tmp_path):
    only_bad = tmp_path / "bad"
    only_bad.mkdir()
    for number in range(3):
        (only_bad / f"{number}.jpg").write_bytes(b"")
    job(model, [only_bad, pictures], tmp_path / "out", shard_size=3)
    table = pyarrow.parquet.read_table(tmp_path / "out")
    assert table.num_rows == COUNT + 3
    text, number = pyarrow.string(), pyarrow.int32()
    kinds = {"file": text, "width": number, "height": number, "error": text, "cls": text, "seg": text}
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == kinds


def test_workers_and_threads_do_not_change_a_byte(model, pictures, tmp_path):
    job(model, [pictures], tmp_path / "one")
    for number, options in enumerate([{"workers": 2, "actors": 1}, {"workers": 0, "actors": 4}]):
        job(model, [pictures], tmp_path / f"{number}", **options)
        assert content(tmp_path / f"{number}") == content(tmp_path / "one")
    assert torch.get_num_threads() == 1  # as conftest has set it


def test_a_job_that_was_killed_goes_on_to_the_same_result(model, pictures, tmp_path):
    job(model, [pictures], tmp_path / "whole", shard_size=10)
    out = tmp_path / "out"
    settings = {"shard_size": 10, "batch_size": 8, "device": "cpu", "workers": 1, "actors": 1}
    call = f"predict_rows({model!r}, [{str(pictures)!r}], {str(out)!r}, **{settings})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)])}
    process = subprocess.Popen(
        [sys.executable, "-c", f"from brickyard.inference.jobs import *; {call}"], env=environment
    )
    while len(list(out.glob("part-*"))) < 3:
        assert process.poll() is None, "it was to be killed before it ended"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (out / ".part-000014.parquet").write_bytes(b"half of a fi")  # what it was writing
    before = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*")}
    assert 3 <= len(before) < 15
    done = job(model, [pictures], out, shard_size=10)
    assert (done.pictures, done.before) == (COUNT - 10 * len(before), 10 * len(before))
    assert content(out) == content(tmp_path / "whole")
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    names = [row["file"] for row in rows_in(out)]
    assert len(names) == len(set(names)) == COUNT
    assert job(model, [pictures], out, shard_size=10).pictures == 0


def test_another_job_is_refused_and_the_rows_stay(model, pictures, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    for number in range(5):
        (other / f"{number}.jpg").parent.mkdir(exist_ok=True)
        (other / f"{number}.jpg").write_bytes(encoded(number))
    job(model, [other], out)
    before = content(out)
    untrained = tmp_path / "untrained"
    create_model("test_resnet_cls_seg", num_classes={"cls": 7, "seg": 3}).save_pretrained(untrained)
    for source, places, options, told in [
        (model, [other, pictures], {}, "pictures: sha256 is another"),
        (model, [other], {"shard_size": 2}, "shard_size was 40, is now 2"),
        (model, [other], {"batch_size": 2}, "batch_size was 8, is now 2"),
        (model, [other], {"kind": "jsonl"}, "rows was parquet, is now jsonl"),
        (f"local-dir:{untrained}", [other], {}, "cls/head is another"),
    ]:
        with pytest.raises(BrickMismatchError, match=told):
            job(source, places, out, **options)
    (other / "0.jpg").write_bytes(encoded(9))
    with pytest.raises(BrickMismatchError, match="pictures: sha256 is another"):
        job(model, [other], out)
    assert content(out) == before


def test_the_same_model_from_another_place_goes_on(model, pictures, tmp_path):
    job(model, [pictures], tmp_path / "out")
    assert job(model.removeprefix("local-dir:"), [pictures], tmp_path / "out").before == COUNT


def test_rows_of_an_unknown_job_are_refused(model, pictures, tmp_path):
    (tmp_path / "part-000000.parquet").write_bytes(b"somebody's")
    with pytest.raises(BrickMismatchError, match=r"no _job\.json"):
        job(model, [pictures], tmp_path)


@pytest.mark.parametrize("text", [b"", b'{"format": 1, "ro'], ids=["empty", "cut short"])
def test_a_job_that_was_killed_before_its_first_rows_begins_anew(text, model, pictures, tmp_path):
    (tmp_path / "_job.json").write_bytes(text)
    assert job(model, [pictures], tmp_path).pictures == COUNT
    assert json.loads((tmp_path / "_job.json").read_text())["pictures"]["count"] == COUNT
    (tmp_path / "_job.json").write_bytes(text)
    with pytest.raises(BrickMismatchError, match=r"_job\.json is no JSON"):
        job(model, [pictures], tmp_path)


def test_two_processes_do_not_write_one_job_at_once(model, pictures, tmp_path):
    job(model, [pictures], tmp_path)
    before = content(tmp_path)
    hold = "file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    code = f"import fcntl, sys; {hold}"
    command = [sys.executable, "-c", code, str(tmp_path / "_job.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(BrickInputError, match="in use"):
            job(model, [pictures], tmp_path)
        other.kill()
    assert job(model, [pictures], tmp_path).before == COUNT
    assert content(tmp_path) == before


def test_rows_are_not_written_among_the_pictures(model, pictures):
    with pytest.raises(BrickInputError, match="outside of"):
        job(model, [pictures], pictures / "out")
    assert not (pictures / "out").exists()


def test_a_place_without_pictures_leaves_no_folder(model, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        with pytest.raises(BrickInputError, match=place):
            job(model, [tmp_path / place], tmp_path / "out")
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), tmp_path / "t.parquet")
    with pytest.raises(BrickInputError, match=r"t\.parquet: expected pictures, found tables without rows"):
        job(model, [tmp_path / "t.parquet"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_with_the_name_of_a_column_is_refused(pictures, tmp_path):
    create_model(backbone="test_resnet", tasks={"width": "cls"}, num_classes=2).save_pretrained(tmp_path / "model")
    with pytest.raises(BrickInputError, match="width"):
        job(f"local-dir:{tmp_path / 'model'}", [pictures], tmp_path / "out")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_names_that_are_no_text_do_not_stop_a_job(kind, model, tmp_path):
    (tmp_path / "in").mkdir()
    for name in (b"a\xff.jpg", b"b\xfe.jpg"):
        with open(os.fsencode(tmp_path / "in") + b"/" + name, "wb") as file:
            file.write(encoded(0) if name.startswith(b"a") else b"no picture")
    assert job(model, [tmp_path / "in"], tmp_path / "out", kind=kind).unread == 1
    names = [os.path.basename(row["file"]) for row in rows_in(tmp_path / "out")]
    assert names == (["a\\udcff.jpg", "b\\udcfe.jpg"] if kind == "parquet" else ["a\udcff.jpg", "b\udcfe.jpg"])


@pytest.mark.parametrize(("kind", "module"), [("parquet", "pyarrow.parquet"), ("jsonl", "ray")])
def test_what_is_not_installed_is_told_by_its_extra(kind, module, model, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'brickyard\[scale\]'"):
        job(model, [pictures], tmp_path / "out", kind=kind, engine="ray")
    assert not (tmp_path / "out").exists()


def test_one_place_needs_no_list(model, pictures, tmp_path):
    assert job(model, pictures, tmp_path).pictures == COUNT


def test_a_folder_of_rows_with_the_model_s_name_is_no_model(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "test_resnet_cls_seg_det.digits_v1"
    for before in (0, COUNT):
        assert job(name, pictures, name).before == before


def test_an_empty_part_is_done_again(model, pictures, tmp_path):
    job(model, pictures, tmp_path)
    before = content(tmp_path)
    (tmp_path / "part-000001.parquet").write_bytes(b"")
    assert job(model, pictures, tmp_path).pictures == 40
    assert content(tmp_path) == before


def test_nothing_is_written_through_a_link(model, pictures, tmp_path):
    (tmp_path / "other").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".part-000000.parquet").symlink_to(tmp_path / "other")
    job(model, pictures, tmp_path / "out")
    assert (tmp_path / "other").read_text() == "mine"
    assert not (tmp_path / "out" / "part-000000.parquet").is_symlink()
