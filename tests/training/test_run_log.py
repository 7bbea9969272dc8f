import json
from pathlib import Path

from PIL import Image

from brickyard.training.loggers import ImageLogger
from brickyard.training.run_log import RunLog


def test_each_row_is_a_line_with_its_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    assert log.size == 0
    log.truncate(0)
    log.log_metrics({"train/loss": 0.5}, step=3)
    log.log_metrics({"validation/loss": float("nan")}, step=4)
    rows = [json.loads(line) for line in log.file.read_text().splitlines()]
    assert rows[0] == {"step": 3, "train/loss": 0.5}
    assert rows[1] == {"step": 4, "validation/loss": None}
    assert log.size == log.file.stat().st_size


def test_rows_can_be_truncated(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.truncate(0)
    log.log_metrics({"a": 1.0}, step=1)
    size = log.size
    log.log_metrics({"a": 2.0}, step=2)
    log.truncate(size)
    log.log_metrics({"a": 3.0}, step=2)
    assert [json.loads(line)["a"] for line in log.file.read_text().splitlines()] == [1.0, 3.0]


def test_visualizations_are_files_by_name_step_and_index(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    assert isinstance(log, ImageLogger)
    log.log_image("validation/seg/visualization", [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")], 20)
    names = sorted(file.name for file in log.visualizations.iterdir())
    assert names == ["validation_seg_visualization_20_0.png", "validation_seg_visualization_20_1.png"]
    assert Image.open(log.visualizations / names[1]).getpixel((0, 0)) == (0, 0, 255)


def test_the_name_is_that_of_the_folder(tmp_path: Path) -> None:
    assert RunLog(tmp_path / "first").name == "first"
    assert RunLog(tmp_path / "first").version == ""
