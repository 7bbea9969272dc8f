import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from brickyard import Predictor, create_model
from brickyard.cli import main

# Of torch's advice, on a machine with one core.


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    create_model("test_resnet_cls", labels=["cat", "fox", "dog"]).save_pretrained(folder)
    return f"local-dir:{folder}"


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "5.png").write_text("no picture")
    return folder


def test_a_job_writes_rows_and_nothing_else(model, pictures, tmp_path):
    result = run(pictures, "--model", model, "--engine", "local", "--shard-size", 4, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == f"9 pictures, 1 of them not read; rows in {tmp_path / 'out'}\n"
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["_job.json", "part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    rows = pyarrow.parquet.read_table(tmp_path / "out").to_pylist()
    for row, told in zip(rows, Predictor(model, device="cpu").predict(pictures), strict=True):
        assert row["file"] == str(told.file)
        assert row["error"] == told.error
        found = [each["label"] for each in json.loads(row["cls"])] if row["cls"] else []
        assert found == [each["label"] for each in told.results.get("cls", [])]


def test_the_same_command_goes_on(model, pictures, tmp_path):
    command = [pictures, "--model", model, "--engine", "local", "--rows", "jsonl", "--shard-size", 4, "--workers", 1]
    run(*command, "--out", tmp_path / "out")
    (tmp_path / "out" / "part-000001.jsonl").unlink()
    result = run(*command, "--out", tmp_path / "out")
    assert result.stdout.startswith("4 pictures (5 before), 1 of them not read")
    lines = [line for part in sorted((tmp_path / "out").glob("part-*")) for line in part.read_text().splitlines()]
    assert [Path(json.loads(line)["file"]).name for line in lines] == [f"{number}.png" for number in range(9)]


def test_another_job_in_the_folder_is_one_line(model, pictures, tmp_path):
    command = [pictures, "--model", model, "--engine", "local", "--out", tmp_path / "out"]
    run(*command)
    result = run(*command, "--batch-size", 3)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: [^\n]*another job[^\n]*batch_size was 16, is now 3\n", result.stderr)


@pytest.mark.parametrize(
    "option", [("--rows", "parquet"), ("--workers", 1), ("--shard-size", 5), ("--actors", 1), ("--address", "auto")]
)
def test_what_is_for_jobs_is_refused_without_an_engine(option, pictures, tmp_path):
    result = run(pictures, *option, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{option[0]} is for jobs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_address_is_for_ray_only(pictures):
    result = run(pictures, "--engine", "local", "--address", "auto")
    assert result.exit_code == 2
    assert "--engine ray" in result.stderr


@pytest.mark.parametrize("place", ["hf://datasets/user/name", "some.parquet"])
def test_tables_are_for_jobs_only(place, tmp_path):
    result = run(place, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{place} is for jobs: add --engine" in result.stderr


def test_every_task_is_told_in_lines(tmp_path):
    tasks = {task: task for task in ("cls", "seg", "det", "depth", "kpt", "emb")}
    counts = {"cls": 3, "seg": 4, "det": 5, "kpt": 2}
    create_model(backbone="test_resnet", tasks=tasks, num_classes=counts).save_pretrained(tmp_path / "model")
    name = "a [bold] 'name', é.png"
    (tmp_path / "in").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "in" / name)
    result = run(tmp_path / "in", "--model", f"local-dir:{tmp_path / 'model'}", "--out", tmp_path / "out")
    assert result.exit_code == 0
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    lines = [line.split() for line in result.stdout.splitlines()]
    assert f"{tmp_path / 'in' / name}  50x40" in result.stdout
    for head, share in {"cls": "probability", "seg": "share", "kpt": "score"}.items():
        for found in row[head]:
            assert [f"{100 * found[share]:.2f}%", found["label"]] in lines
    (depth,) = row["depth"]
    numbers = [text for name in ("nearest", "median", "farthest") for text in (name, f"{depth[name]:.4g}")]
    assert [depth["label"], *numbers] in lines
    assert ["vector", "128", "numbers"] in lines


def test_help_tells_the_two_ways_apart():
    shown = " ".join(run("--help").stdout.split())
    assert "Many pictures, as a job: brickyard predict photos/ --engine local --out rows" in shown
    assert "With --engine there is nothing but rows" in shown


def test_a_name_that_is_no_text_is_written_as_json(model, tmp_path):
    name = b"a\xff.png"
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:
        Image.new("RGB", (20, 20)).save(file, "PNG")
    result = run(tmp_path, "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 0
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert bytes(Path(row["file"])) == bytes(tmp_path) + b"/" + name
