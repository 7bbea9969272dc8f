"""Locks between threads and processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from brickyard.storage.locks import exclusive_lock
from tests.toys import ROOT, SOURCE

_HOLD = """
import os, sys, time
from pathlib import Path
from brickyard.storage.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:
        os.close(0), os.close(1), os.close(2)
        time.sleep(60)
        os._exit(0)
    print(flush=True)
    sys.stdin.read()
"""


def holder(file: Path, *arguments: str) -> subprocess.Popen:
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(SOURCE), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", _HOLD, str(file), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    return process


def test_the_lock_file_is_removed_on_release(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_second_thread_is_refused_or_waits(tmp_path: Path) -> None:
    order = []

    def wait() -> None:
        with exclusive_lock(tmp_path / "lock"):
            order.append("second")

    second = threading.Thread(target=wait)
    with exclusive_lock(tmp_path / "lock"):
        with pytest.raises(TimeoutError), exclusive_lock(tmp_path / "lock", timeout=0):
            pass
        second.start()
        time.sleep(0.2)
        order.append("first")
    second.join(10)
    assert order == ["first", "second"]


def test_never_two_at_once_while_the_lock_file_comes_and_goes(tmp_path: Path) -> None:
    inside, most = [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(10):
            with exclusive_lock(tmp_path / "lock"):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with guard:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]


def test_another_process_is_refused_until_the_holder_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        with pytest.raises(TimeoutError), exclusive_lock(tmp_path / "lock", timeout=0):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with exclusive_lock(tmp_path / "lock", timeout=0):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
def test_a_forked_process_does_not_keep_the_lock_of_a_killed_parent(tmp_path: Path) -> None:
    with holder(tmp_path / "lock", "fork") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with exclusive_lock(tmp_path / "lock", timeout=20):
        pass  # the fork may take a moment to close what it inherited
