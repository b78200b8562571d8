"""The rehearsal: how it measures, how the walk is resumed, what its table says."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import random_teachers
import rehearsal
import rehearsal_measured as measured
import rehearsal_shim as shim
import rehearsal_steps as steps
import rehearsal_table as table
import rehearsal_walk as walked
import torch

from diffopd.config.arguments import hydra_arguments
from diffopd.files.sealed import SEAL

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def sigterm_as_before():
    """The program handles it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


CHILD = """
import pathlib, subprocess, sys, time
held = bytearray(64 << 20)
for place in range(0, len(held), 4096):
    held[place] = 1
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"])
    time.sleep(600)
folder = pathlib.Path(sys.argv[1])
(folder / "ready").touch()
time.sleep(600)
"""


def test_memory_is_summed_over_all_processes_and_a_killed_command_leaves_none(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(CHILD)
    seen = []

    def looked_at_since_all_was_there():
        seen.append((tmp_path / "ready").exists())
        return seen[-2:] == [True, True]

    found = measured.measured(
        [sys.executable, str(program), str(tmp_path)], tmp_path / "log", environment=os.environ, limit=60,
        kill_when=looked_at_since_all_was_there,
    )  # fmt: skip
    assert found.code == -signal.SIGKILL
    assert not found.over_limit
    assert 128 << 20 < found.rss < 400 << 20
    if found.anonymous is not None:
        assert 128 << 20 < found.anonymous <= found.rss


def test_a_command_is_ended_at_its_limit_and_what_it_printed_is_kept(tmp_path):
    program = "import time; print('begun', flush=True); time.sleep(600)"
    found = measured.measured(
        [sys.executable, "-c", program], tmp_path / "log", environment=os.environ, limit=2
    )
    assert found.over_limit
    assert found.code == -signal.SIGKILL
    assert found.silent > 0
    assert (tmp_path / "log").read_text() in ("begun\n", "")


def command(text):
    return (steps.PYTHON, "-c", text)


def short_steps(folder, **changes):
    """Three steps, the second of which needs the first; ``changes`` are other programs."""
    programs = {"one": f"open({str(folder / 'one')!r}, 'a').write('1')", "two": "print('two')", "three": ""}
    programs |= changes
    needs = {"two": ["one"], "three": []}
    return [
        steps.Step(name=name, title=name, command=command(program), needs=needs.get(name, ()))
        for name, program in programs.items()
    ]


def walk(list_of_steps, folder, about=None):
    about = about or {"model": "x"}
    settings = {"environment": os.environ, "commit": "abc", "limit": 60}
    return list(walked.walk(list_of_steps, folder, about, **settings))


def test_steps_that_are_done_are_not_repeated(tmp_path):
    first = walk(short_steps(tmp_path), tmp_path)
    assert [record["result"] for record in first] == ["ok"] * 3
    assert walk(short_steps(tmp_path), tmp_path) == first
    assert (tmp_path / "one").read_text() == "1"
    with pytest.raises(walked.OtherWalkError, match="give another --folder"):
        walk(short_steps(tmp_path), tmp_path, {"model": "y"})


def test_a_damaged_record_of_a_walk_is_named_and_not_believed(tmp_path):
    walk(short_steps(tmp_path), tmp_path)
    state = tmp_path / walked.STATE
    state.write_text(state.read_text().replace('"result": "ok"', '"result": "ol"', 1))
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        walk(short_steps(tmp_path), tmp_path)


@pytest.mark.slow
def test_commands_are_noted_as_they_are_typed(tmp_path):
    program = steps.HERE / "rehearsal_stock.py"
    helped = steps.Step(name="a", title="a", command=[steps.PYTHON, str(program), "--help"])
    noted = walk([helped], tmp_path)[0]
    assert noted["result"] == "ok"
    assert noted["command"] == ["python", "benchmarks/rehearsal_stock.py", "--help"]


def test_a_failure_is_told_and_only_what_needs_it_is_left_out(tmp_path):
    broken = "print('first line'); print('the reason'); raise SystemExit(3)"
    failed = walk(short_steps(tmp_path, one=broken), tmp_path)
    assert [record["result"] for record in failed] == ["failed", "skipped", "ok"]
    assert failed[0]["note"] == "exit code 3"
    assert failed[0]["tail"] == ["first line", "the reason"]
    assert failed[1]["note"] == "needs one"
    assert [record["result"] for record in walk(short_steps(tmp_path), tmp_path)] == ["ok"] * 3


def test_a_step_is_repeated_when_one_that_it_needs_was(tmp_path):
    walk(short_steps(tmp_path), tmp_path)
    state = json.loads((tmp_path / walked.STATE).read_text())
    state["steps"]["one"]["result"] = "failed"
    del state[SEAL]  # edited on purpose
    (tmp_path / walked.STATE).write_text(json.dumps(state))
    counting = f"open({str(tmp_path / 'two')!r}, 'a').write('2')"
    walk(short_steps(tmp_path, two=counting), tmp_path)
    assert (tmp_path / "two").read_text() == "2"
    walk(short_steps(tmp_path, two=counting), tmp_path)
    assert (tmp_path / "two").read_text() == "2"


def result(code, **changes):
    return measured.Measured(code, 1.0, 0.5, 10, 5, 0, **changes)


def test_a_good_exit_code_is_not_enough(tmp_path):
    leaves = steps.Step(name="a", title="a", command=(), leaves=[tmp_path / "absent"])
    assert walked.judged(leaves, result(0), 0.0, "") == ("failed", f"left no {tmp_path / 'absent'}")
    killed = steps.Step(name="a", title="a", command=(), kill_when=lambda: True)
    assert walked.judged(killed, result(0), 0.0, "")[0] == "failed"
    assert walked.judged(killed, result(-9), 0.0, "") == ("ok", "")
    assert walked.judged(killed, result(-9, over_limit=True), 0.0, "")[0] == "failed"
    warned = steps.Step(name="a", title="a", command=(), accepted={0: "", 1: "with warnings"})
    assert walked.judged(warned, result(1), 0.0, "") == ("ok", "with warnings")
    assert walked.judged(warned, result(2), 0.0, "")[0] == "failed"


def test_a_training_that_began_anew_is_not_taken_for_a_resumed_one(tmp_path):
    way = steps.Walk("tiny", tmp_path, with_t5=False, device="cpu")
    resumed = next(step for step in way.steps() if step.name == "resumed")
    for name, seconds in (("round_000001", 10), ("round_000002", 30), ("round_000003.writing", 5)):
        (way.run / "checkpoints" / name).mkdir(parents=True)
        os.utime(way.run / "checkpoints" / name, (seconds, seconds))
    assert resumed.check(20.0, "") == "from round_000001 to round_000002"
    with pytest.raises(steps.NotLeftError, match="began anew"):
        resumed.check(5.0, "")


def test_every_command_composes(tmp_path):
    way = steps.Walk("sd3_5_medium", tmp_path, with_t5=True, device="cpu")
    commands = [step.command for step in way.steps() if "-m" in step.command]
    found = {command[2].removeprefix("diffopd."): list(command[3:]) for command in commands}
    assert set(found) == {"doctor", "train", "sample", "evaluate", "export"}
    for name, arguments in found.items():
        short = name in ("sample", "evaluate")  # these take adapter=<folder>
        cfg = random_teachers.composed(name, hydra_arguments(arguments) if short else arguments)
        if name != "export":
            assert (cfg.model.image_size, cfg.model.text_length) == (64, 16)


def test_every_step_comes_after_those_it_needs(tmp_path):
    before = set()
    for step in steps.Walk("tiny", tmp_path, with_t5=False, device="auto").steps():
        assert before.issuperset(step.needs)
        before.add(step.name)


RECORDS = [
    {
        "name": "a",
        "title": "build",
        "result": "ok",
        "note": "",
        "seconds": 61.4,
        "silent": 2.0,
        "rss": int(4.94e9),
        "anonymous": 75_100_000,
        "written": 1_500_000,
        "left": 0,
        "commit": "abc",
    },
    {
        "name": "b",
        "title": "train",
        "result": "failed",
        "note": "exit code 1",
        "seconds": 3.0,
        "silent": 1.0,
        "rss": 10,
        "anonymous": None,
        "written": 0,
        "left": 0,
        "commit": "abc",
        "tail": ["the | reason"],
    },
    {"name": "c", "title": "sample", "result": "skipped", "note": "needs train"},
]


def test_the_table_has_a_line_for_each_step_and_the_last_lines_of_a_failure():
    lines = table.table(RECORDS).splitlines()
    assert lines[2:] == [
        "| build | ok | 61 s | 2 s | 4.94 GB (75 MB) | 1.5 MB (0.0 MB) |",
        "| train | **failed**: exit code 1 | 3 s | 1 s | 0.0 MB (-) | 0.0 MB (0.0 MB) |",
        "| sample | **skipped**: needs train |  |  |  |  |",
    ]
    about = {"command": "python benchmarks/rehearsal.py", "model": "tiny", "cores": 2, "shim": True}
    page = table.page(about, RECORDS)
    assert "first 64 inputs" in page
    assert "at commit abc, 2 cores" in page
    assert "## train: exit code 1\n\n```\nthe | reason\n```" in page
    assert "No shim" in table.page(about | {"shim": False}, RECORDS)


def test_a_dry_run_says_what_is_needed_and_makes_nothing(tmp_path, capsys):
    folder = tmp_path / "walk"
    assert rehearsal.main(["--model", "tiny", "--dry-run", "--folder", str(folder)]) == 0
    assert "disk that is needed" in capsys.readouterr().out
    assert not folder.exists()


def test_without_room_nothing_is_begun(tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    folder = tmp_path / "walk"
    assert rehearsal.main(["--model", "tiny", "--folder", str(folder)]) == 2
    assert "give a --folder with more room" in capsys.readouterr().err
    assert not folder.exists()


def test_the_shim_reaches_every_python_that_has_it_in_its_path(tmp_path):
    environment = walked.environment_of(shim.install(tmp_path / "shim"))
    program = (
        "import torch; layer = torch.nn.Linear(70, 1, bias=False); layer.weight.data.fill_(1); "
        "print(layer(torch.ones(70)))"
    )
    run = [sys.executable, "-c", program]
    printed = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    assert "64." in printed
    assert torch.nn.Linear(70, 1, bias=False).forward.__name__ == "forward"


def has_ended(pid):
    """Whether a process ends within a minute, or has; it would sleep for ten."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 60)[0])
    finally:
        os.close(process)


def test_a_request_to_end_also_ends_the_command_under_way(tmp_path, monkeypatch, sigterm_as_before):
    endless = (
        f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    )
    text = f"{endless}; os.kill(os.getppid(), {int(signal.SIGTERM)}); time.sleep(600)"
    only = steps.Step(name="a", title="a", command=command(text))
    monkeypatch.setattr(steps.Walk, "steps", lambda self: [only])
    with pytest.raises(SystemExit) as end:
        rehearsal.main(["--model", "tiny", "--folder", str(tmp_path / "walk"), "--output", str(tmp_path)])
    assert end.value.code == 75
    assert has_ended(int((tmp_path / "pid").read_text()))
    assert json.loads((tmp_path / "walk" / walked.STATE).read_text())["steps"] == {}


@pytest.mark.exhaustive  # each of its commands has its own tests
def test_the_tiny_walk_goes_well(tmp_path, monkeypatch, capsys, sigterm_as_before):
    """With the formats that are read by the library alone; every format has its own tests in tests/export."""
    monkeypatch.setattr(steps, "FORMATS", ("diffusers", "merged"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    places = ["--folder", str(tmp_path / "walk"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert rehearsal.main(["--model", "tiny", *places]) == 0, capsys.readouterr()
    written = json.loads((tmp_path / "out" / "rehearsal.json").read_text())
    found = {record["name"]: record for record in written["steps"]}
    assert list(found) == [
        "build", "doctor", "killed", "resumed", "sample", "evaluate",
        "export_diffusers", "export_merged", "stock_diffusers", "stock_merged",
    ]  # fmt: skip
    assert {record["result"] for record in found.values()} == {"ok"}
    assert found["killed"]["code"] == -9
    assert found["stock_diffusers"]["note"].startswith("LoRA on 15 layers, scale ")
    assert all(record["rss"] > 50e6 for record in found.values())
    assert "| the same command, resumed | ok: from round_" in (tmp_path / "out" / "rehearsal.md").read_text()
