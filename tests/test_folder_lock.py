"""Two commands in one folder: the second waits a little, then is refused; a kill lets go."""

import os
import signal
import subprocess
import sys

import pytest

from diffopd.run.lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from diffopd.run.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_and_told_who_is_at_work(holder, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=rf"^process {holder.pid} on .+ is using {folder}; wait"):
        with locked(folder, wait=0.1):
            pass


def test_a_process_that_ends_meanwhile_is_waited_for(holder, tmp_path):
    holder.stdin.write("\n")
    holder.stdin.flush()
    with locked(tmp_path / "run", wait=60):
        assert f"process {os.getpid()} on " in (tmp_path / "run" / LOCK).read_text()


def test_a_killed_process_leaves_nothing_to_clean_up(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run", wait=0):
        pass


def test_a_failure_lets_go(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path, wait=0):
        pass
