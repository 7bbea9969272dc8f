"""Temporary folders of writers that were killed are removed by the next writer of the same file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from brickyard.storage.atomic import write_atomically
from tests.toys import SOURCE

CODE = """
import sys
from pathlib import Path
from brickyard.storage.atomic import write_atomically
with write_atomically(Path(sys.argv[1])) as temp:
    temp.write_text("half")
    print(flush=True)
    sys.stdin.read()
"""


def write(path: Path) -> None:
    with write_atomically(path) as temp:
        temp.write_text("whole")


@pytest.mark.parametrize("name", ["model.onnx", "a [1].onnx"])
def test_the_folder_of_a_killed_writer_is_removed_and_that_of_a_living_one_stays(name, tmp_path):
    path = tmp_path / name
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", CODE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        other.stdout.readline()
        writing = set(tmp_path.iterdir())  # its folder and the lock of that
        write(path)
        assert set(tmp_path.iterdir()) == {*writing, path}
        write(tmp_path / "other")
        other.send_signal(signal.SIGKILL)
        other.wait()
    write(tmp_path / "other")
    assert writing <= set(tmp_path.iterdir())
    write(path)
    assert set(tmp_path.iterdir()) == {path, tmp_path / "other"}
    assert path.read_text() == "whole"
