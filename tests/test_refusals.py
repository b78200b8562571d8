"""Every command refuses a mistake with one message, before torch, Lightning or diffusers is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("diffusers", "lightning", "transformers", "peft", "torch")
PROGRAM = r"""
import contextlib, io, json, os, runpy, sys, traceback
import hydra, omegaconf  # once for all commands; each is then run in a copy of this process

def run(command, arguments):
    from diffopd.check import ConfigError
    sys.argv = [command, *arguments]
    shown, code = io.StringIO(), None
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_module(f"diffopd.{command}", run_name="__main__", alter_sys=False)
        except SystemExit as end:
            code = end.code
    heavy = [name for name in HEAVY if name in sys.modules]
    return {"code": code, "shown": shown.getvalue(), "heavy": heavy}

HEAVY, cases = json.loads(sys.stdin.read())
assert not [name for name in HEAVY if name in sys.modules]
for command, arguments in cases:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            found = run(command, arguments)
        except BaseException:
            found = {"code": None, "shown": traceback.format_exc(), "heavy": []}
        with os.fdopen(write, "w") as out:
            out.write(json.dumps(found))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as back:
        print(back.read(), flush=True)
    os.waitpid(child, 0)
"""

CASES = {
    "train": (
        ["+experiment=mopd_ode", "+phase.rond=1"],
        "phase.rond is not a setting of .*mean phase.round?",
    ),
    "evaluate": (["gidance_scale=1"], "gidance_scale is not a setting .*did you mean guidance_scale?"),
    "sample": (["prompt=x", "num_images=0"], "num_images=0 must be a whole number from 1 to 100000"),
    "export": (["run=x", "to=y", "format=peftt"], "format=peftt must be one of .*did you mean peft?"),
    "convert": (["reward=pickscore", "fron=x"], "fron is not a setting of convert; did you mean from?"),
    "reward_server": (["reward=ocrr"], "reward=ocrr: there is no such choice; did you mean reward=ocr?"),
    "report": (["runz=x"], "runz is not a setting of report; did you mean runs?"),
    "table": (["rows=tabel1"], "rows=tabel1: there is no such choice; did you mean rows=table1?"),
    "paper_table": (["refrence=x"], "refrence is not a setting .*did you mean reference?"),
    "cascade": (["stages=nftt"], "stages=nftt: there is no such choice; did you mean stages=nft?"),
    "ablations": (["num_procesess=1"], "num_procesess is not a setting .*did you mean num_processes?"),
    "doctor": (["+experiment=mopd_ode", "loss=opdd"], "loss=opdd: there is no such choice; .*loss=opd?"),
    "replay": (["rum=x"], "rum is not a setting of replay; did you mean run?"),
}
NESTED = {
    "table": (
        ["overrides=['phase.rond=1']"],
        "rows.[a-z_]+.arguments: phase.rond is not a setting of phase; it has .*updates_per_round",
    ),
    "cascade": (["stages=nft", "overrides=['resume=x']"], "stages.[a-z_]+: .*resume=x must be one of"),
    "ablations": (["overrides=['phase.rond=1']"], "phase.rond is not a setting"),
}
"""Mistakes in what a command would start."""


def refusals(cases, folder):
    """What each command printed, its exit code, and the heavy modules it had loaded by then."""
    given = json.dumps([HEAVY, cases])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=given, capture_output=True, text=True, cwd=folder, check=True
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


SOME = ("train", "evaluate", "convert", "table")
"""One that trains, one that loads weights, one that only writes files, one that starts others."""


@pytest.mark.parametrize("commands", [SOME, pytest.param(tuple(CASES), marks=pytest.mark.slow)], ids=len)
def test_every_command_refuses_before_heavy_imports(tmp_path, commands):
    cases = [(command, CASES[command][0]) for command in commands]
    for (command, _), refused in zip(cases, refusals(cases, tmp_path), strict=True):
        message = CASES[command][1]
        assert refused["code"] == 2, (command, refused)
        assert "Traceback" not in refused["shown"]
        assert refused["shown"].startswith("config error: "), command
        assert refused["shown"].endswith("(debug=true shows the traceback)\n")
        for part in message.split(".*"):
            assert part in refused["shown"], command
        assert refused["heavy"] == [], command


def test_commands_are_all_here():
    files = (Path(__file__).parents[1] / "src" / "diffopd").rglob("*.py")
    found = {
        file.parent.name if file.stem == "__main__" else file.stem
        for file in files
        if '@command("' in file.read_text(encoding="utf-8")
    }
    assert found == set(CASES)


@pytest.mark.slow
def test_mistakes_in_what_a_command_would_start(tmp_path):
    cases = [(command, arguments) for command, (arguments, _) in NESTED.items()]
    for (command, _), refused in zip(cases, refusals(cases, tmp_path), strict=True):
        assert refused["code"] == 2, (command, refused)
        assert re.search(NESTED[command][1], refused["shown"]), (command, refused["shown"])
        assert not {"diffusers", "lightning"} & set(refused["heavy"]), command


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["+experiment=mopd_ode", "+phase.rond=1", "debug=true"]])
def test_a_traceback_on_request(tmp_path, arguments):
    (raised,) = refusals([("train", arguments)], tmp_path)
    assert raised["code"] is None  # Python's own end of a program, with a traceback
    assert "Traceback" in raised["shown"]
    assert "phase.rond" in raised["shown"]
