"""Commands as processes: order, side by side, failure, a request to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffopd.command.program import INTERRUPTED
from diffopd.jobs.launch import Job, TrainingFailedError, run_jobs


@pytest.fixture
def job(tmp_path, monkeypatch):
    """``job(name, *commands, needs=())``: a command is the arguments of a module that notes when it ran."""
    (tmp_path / "step.py").write_text(
        "import pathlib, sys, time\n"
        "name, seconds, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])\n"
        "with open('ran.txt', 'a') as file: file.write(name + ' begins\\n')\n"
        "time.sleep(seconds)\n"
        "with open('ran.txt', 'a') as file: file.write(name + ' ends\\n')\n"
        "print('said by', name, flush=True)\n"
        "sys.exit(code)\n"
    )
    monkeypatch.chdir(tmp_path)

    def make(name, *steps, needs=()):
        commands = [
            ["step", f"{name}{number}", str(seconds), str(code)]
            for number, (seconds, code) in enumerate(steps)
        ]
        return Job(name=name, needs=needs, commands=lambda: iter(commands), log=tmp_path / f"{name}.log")

    return make


def ran(tmp_path):
    return (tmp_path / "ran.txt").read_text().split("\n")[:-1]


def test_a_job_waits_for_what_it_needs_and_its_commands_follow_one_another(job, tmp_path):
    jobs = [job("b", (0, 0), needs=["a"]), job("a", (0.3, 0), (0, 0))]
    assert run_jobs(jobs, num_processes=2)
    assert ran(tmp_path) == ["a0 begins", "a0 ends", "a1 begins", "a1 ends", "b0 begins", "b0 ends"]
    assert (tmp_path / "a.log").read_text() == "said by a0\nsaid by a1\n"


@pytest.mark.parametrize("num_processes", [1, 2])
def test_as_many_run_at_once_as_asked(job, tmp_path, num_processes):
    seen = []
    jobs = [job(name, (0.3, 0)) for name in "abc"]
    assert run_jobs(jobs, num_processes=num_processes, watch=lambda running: seen.append(len(running)))
    assert max(seen) == num_processes
    assert len(ran(tmp_path)) == 6


def test_a_failure_ends_the_others_and_shows_the_log(job, tmp_path):
    jobs = [job("bad", (0, 3), (0, 0)), job("long", (600, 0)), job("later", (0, 0), needs=["bad"])]
    begun = time.monotonic()
    with pytest.raises(
        TrainingFailedError, match=r"bad failed with exit code 3; the end of .*bad.log:\nsaid by bad0"
    ) as failed:
        run_jobs(jobs, num_processes=2)
    assert failed.value.code == 3
    assert time.monotonic() - begun < 300
    assert not any(line.startswith(("bad1", "later")) for line in ran(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_end_is_passed_on_and_nothing_more_begins(job, tmp_path, number):
    jobs = [job("a", (600, 0)), job("b", (0, 0))]

    def ask():
        wait_for((tmp_path / "ran.txt").exists)
        wait_for(lambda: ran(tmp_path))
        os.kill(os.getpid(), number)

    threading.Thread(target=ask).start()
    assert not run_jobs(jobs, num_processes=1)
    assert ran(tmp_path) == ["a0 begins"]


def test_a_command_that_was_asked_to_end_by_someone_else_ends_all(job, tmp_path):
    assert not run_jobs([job("a", (0, INTERRUPTED), (0, 0)), job("b", (0, 0))], num_processes=1)
    assert ran(tmp_path) == ["a0 begins", "a0 ends"]


PARENT = """
import os, sys
from diffopd.command.program import INTERRUPTED
from diffopd.jobs.launch import Job, run_jobs
commands = lambda: iter([["step", "child", "600", "0"]])
run_jobs([Job(name="child", needs=(), commands=commands, log=None)], num_processes=1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_what_it_started_ends_with_a_killed_parent(job, tmp_path):
    job("unused")  # writes step.py here
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path)
    try:
        wait_for((tmp_path / "ran.txt").exists)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 1
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not Path(f"/proc/{children[0]}").exists())


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_jobs_that_wait_for_ever_are_refused(job):
    with pytest.raises(
        ValueError, match=r"these jobs depend on jobs that do not exist: \{'a': \['nobody'\]\}"
    ):
        run_jobs([job("a", (0, 0), needs=["nobody"])], num_processes=1)
