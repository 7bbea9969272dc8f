"""Two processes on gloo against one, with labels missing here and there and unequal shares of pictures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brickyard.data.batches import TrainingOrder
from brickyard.storage.weights import read_weights
from tests.runs import LACKING, LACKING_IN_VAL, train_in_parts
from tests.toys import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "alone"
    train_in_parts(folder, 1, "auto")
    return folder


def test_the_parts_are_as_unequal_as_they_should_be() -> None:
    shares = [list(TrainingOrder(8, 2, 6, rank=rank, world_size=2)) for rank in range(2)]
    labelled = {  # (of the first process, of the second) in each step
        task: [
            tuple(sum(draw.picture not in lacking for draw in batch) for batch in step)
            for step in zip(*shares, strict=True)
        ]
        for task, lacking in LACKING.items()
    }
    assert all(any(0 in counts and counts != (0, 0) for counts in labelled[task]) for task in LACKING)
    assert any(counts in ((1, 2), (2, 1)) for task in LACKING for counts in labelled[task])
    assert {1, 3} <= LACKING_IN_VAL["cls"] & LACKING_IN_VAL["det"]  # all that the second process validates on


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_metrics_and_bricks_of_one(alone: Path, tmp_path: Path, strategy: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.runs", str(tmp_path / "run"), "--devices", "2"]
    done = subprocess.run(
        [*command, "--strategy", strategy], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    expected, found = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (alone, tmp_path / "run")
    )
    assert [list(row) for row in found] == [list(row) for row in expected]
    assert sum("validation/det/map" in row for row in found) == 2
    for one, other in zip(expected, found, strict=True):
        for name, value in one.items():
            assert other[name] == (value if value is None else pytest.approx(value, abs=5e-4)), name
    for file in (alone / "last").rglob("*.safetensors"):
        kept = read_weights(tmp_path / "run" / "last" / file.relative_to(alone / "last"))
        for name, value in read_weights(file).items():
            torch.testing.assert_close(kept[name], value, atol=2e-3, rtol=0)  # Adam turns rounding into steps
