import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from faster_coco_eval.core import mask as coco_masks
from PIL import Image

from brickyard import Predictor, create_model
from brickyard.cli.main import main


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
def images(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "5.png").write_text("not an image")
    return folder


def test_a_job_writes_rows_and_nothing_else(model, images, tmp_path):
    result = run(images, "--model", model, "--engine", "local", "--shard-size", 4, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == f"9 images, 1 of them unreadable; rows in {tmp_path / 'out'}\n"
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["_job.json", "part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    rows = pyarrow.parquet.read_table(tmp_path / "out").to_pylist()
    for row, prediction in zip(rows, Predictor(model, device="cpu").predict(images), strict=True):
        assert row["file"] == str(prediction.file)
        assert row["error"] == prediction.error
        labels = [result["label"] for result in json.loads(row["cls"])] if row["cls"] else []
        assert labels == [result["label"] for result in prediction.results.get("cls", [])]


def test_the_same_command_resumes_a_job(model, images, tmp_path):
    command = [images, "--model", model, "--engine", "local", "--rows", "jsonl", "--shard-size", 4, "--workers", 1]
    run(*command, "--out", tmp_path / "out")
    (tmp_path / "out" / "part-000001.jsonl").unlink()
    result = run(*command, "--out", tmp_path / "out")
    assert result.stdout.startswith("4 images (5 done before), 1 of them unreadable")
    lines = [line for part in sorted((tmp_path / "out").glob("part-*")) for line in part.read_text().splitlines()]
    assert [Path(json.loads(line)["file"]).name for line in lines] == [f"{number}.png" for number in range(9)]


def test_another_job_in_the_folder_is_an_error_with_one_line_per_problem(model, images, tmp_path):
    command = [images, "--model", model, "--engine", "local", "--out", tmp_path / "out"]
    run(*command)
    result = run(*command, "--batch-size", 3)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: [^\n]*another job[^\n]*:\n  - [^\n]*batch_size: expected 16, found 3\n", result.stderr)


@pytest.mark.parametrize(
    "option", [("--rows", "parquet"), ("--workers", 1), ("--shard-size", 5), ("--actors", 1), ("--address", "auto")]
)
def test_options_of_jobs_need_an_engine(option, images, tmp_path):
    result = run(images, *option, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{option[0]} is for jobs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_address_is_for_ray_only(images):
    result = run(images, "--engine", "local", "--address", "auto")
    assert result.exit_code == 2
    assert "--engine ray" in result.stderr


@pytest.mark.parametrize("source", ["hf://datasets/user/name", "some.parquet"])
def test_tables_are_for_jobs_only(source, tmp_path):
    result = run(source, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{source} is for jobs: add --engine" in result.stderr


def test_the_results_of_every_task_are_printed(tmp_path):
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
    for head, key in {"cls": "probability", "seg": "share", "kpt": "score"}.items():
        for result in row[head]:
            assert [f"{100 * result[key]:.2f}%", result["label"]] in lines
    (depth,) = row["depth"]
    numbers = [text for name in ("nearest", "median", "farthest") for text in (name, f"{depth[name]:.4g}")]
    assert [depth["label"], *numbers] in lines
    assert ["vector", "128", "numbers"] in lines


def test_help_describes_both_modes():
    shown = " ".join(run("--help").stdout.split())
    assert "Many images, as a job: brickyard predict photos/ --engine local --out rows" in shown
    assert "With --engine only rows are written" in shown


def test_an_undecodable_file_name_is_written_as_json(model, tmp_path):
    name = b"a\xff.png"
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:
        Image.new("RGB", (20, 20)).save(file, "PNG")
    result = run(tmp_path, "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 0
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    assert bytes(Path(row["file"])) == bytes(tmp_path) + b"/" + name


def test_masks_are_written_as_images_of_the_original_size(images, tmp_path):
    create_model("test_resnet_seg_det", num_classes={"seg": 4, "det": 2}).save_pretrained(tmp_path / "model")
    result = run(images, "--model", tmp_path / "model", "--out", tmp_path / "out", "--threshold", 0)
    assert result.exit_code == 1  # one image is damaged
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    for row, prediction in zip(rows, Predictor(tmp_path / "model", device="cpu").predict(images), strict=True):
        if "error" in row:
            continue
        with Image.open(tmp_path / "out" / row["images"]["seg"]) as mask:
            assert np.array_equal(np.asarray(mask), prediction.masks["seg"])
        assert (tmp_path / "out" / row["images"]["visualization"]).is_file()
        for each in row["seg"]:
            assert np.array_equal(coco_masks.decode(each["segmentation"]), prediction.masks["seg"] == each["class"])


def test_options_choose_what_is_reported(model, images, tmp_path):
    def rows(*options: object) -> list[dict]:
        run(images, "--model", model, "--out", tmp_path / "out", *options)
        text = (tmp_path / "out" / "predictions.json").read_text(encoding="utf-8")
        return [row for row in json.loads(text) if "error" not in row]

    assert {len(row["cls"]) for row in rows("--topk", 2)} == {2}
    assert {each["label"] for row in rows("--classes", "fox, dog") for each in row["cls"]} == {"fox", "dog"}
    assert rows("--threshold", 1.0)[0]["cls"] == []
    assert [each["probability"] for each in rows("--image-size", 64)[0]["cls"]] != [
        each["probability"] for each in rows()[0]["cls"]
    ]
    assert "Unknown class 'wolf'" in run(images, "--model", model, "--classes", "wolf").stderr


def test_without_images_only_json_is_written(model, images, tmp_path):
    run(images, "--model", model, "--out", tmp_path / "out", "--no-images")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_the_options_of_results_hold_for_jobs(model, images, tmp_path):
    command = [images, "--model", model, "--engine", "local", "--rows", "jsonl", "--workers", 0]
    run(*command, "--out", tmp_path / "out", "--topk", 1, "--classes", "fox,dog")
    lines = (tmp_path / "out" / "part-000000.jsonl").read_text(encoding="utf-8").splitlines()
    results = [json.loads(line)["cls"] for line in lines]
    assert all(each is None or (len(each) == 1 and each[0]["label"] in ("fox", "dog")) for each in results)
    other = run(*command, "--out", tmp_path / "out", "--topk", 2, "--classes", "fox,dog")
    assert "topk: expected 1, found 2" in other.stderr


def test_a_second_run_does_not_read_the_output_of_the_first(model, images, tmp_path, monkeypatch):
    monkeypatch.chdir(images)
    for _ in range(2):
        result = run(".", "--model", model)
        assert result.stdout.splitlines()[-1].startswith("8 of 9 images")
    assert run("predictions/0.png", "--model", model).stdout.splitlines()[-1].startswith("1 of 1 images")

    refused = run(images, "--model", model, "--out", images)
    assert refused.exit_code == 2
    assert "--out" in refused.stderr


def test_patterns_and_urls_are_images(model, images, tmp_path):
    result = run(images / "[0-3].png", "http://127.0.0.1:9/far.png", "--model", model, "--out", tmp_path / "out")
    assert result.stdout.splitlines()[-1].startswith("4 of 5 images")
    assert "not read: http://127.0.0.1:9/far.png" in result.stderr
