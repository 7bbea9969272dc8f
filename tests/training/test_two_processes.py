"""Two processes on gloo against one, with missing labels and unequal numbers of images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brickyard.data.batches import TrainingOrder
from brickyard.storage.tensor_file import read_weights
from tests.runs import UNLABELLED, UNLABELLED_IN_VAL, train_in_parts
from tests.toys import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def single_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "single"
    train_in_parts(folder, 1, "auto")
    return folder


def test_the_two_processes_get_unequal_numbers_of_labels() -> None:
    shares = [list(TrainingOrder(range(8), 2, 6, rank=rank, world_size=2)) for rank in range(2)]
    labelled = {  # (first process, second process) in each step
        task: [
            tuple(sum(draw.item not in unlabelled for draw in batch) for batch in step)
            for step in zip(*shares, strict=True)
        ]
        for task, unlabelled in UNLABELLED.items()
    }
    assert all(any(0 in counts and counts != (0, 0) for counts in labelled[task]) for task in UNLABELLED)
    assert any(counts in ((1, 2), (2, 1)) for task in UNLABELLED for counts in labelled[task])
    assert {1, 3} <= UNLABELLED_IN_VAL["cls"] & UNLABELLED_IN_VAL["det"]  # all validation images of the second process


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_metrics_and_bricks_of_one(
    single_process: Path, tmp_path: Path, strategy: str
) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.runs", str(tmp_path / "run"), "--devices", "2"]
    done = subprocess.run(
        [*command, "--strategy", strategy], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    expected, actual = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (single_process, tmp_path / "run")
    )
    assert [list(row) for row in actual] == [list(row) for row in expected]
    assert sum("validation/det/map" in row for row in actual) == 2
    for one, other in zip(expected, actual, strict=True):
        for name, value in one.items():
            assert other[name] == (value if value is None else pytest.approx(value, abs=5e-4)), name
    for file in (single_process / "last").rglob("*.safetensors"):
        saved = read_weights(tmp_path / "run" / "last" / file.relative_to(single_process / "last"))
        for name, value in read_weights(file).items():
            torch.testing.assert_close(saved[name], value, atol=2e-3, rtol=0)  # Adam amplifies rounding
