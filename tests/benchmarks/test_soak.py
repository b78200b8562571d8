"""The soak: trainings of every phase are killed, resumed, and end as the one that was not."""

from __future__ import annotations

import json

import pytest
import soak
import torch
from kill_point import KillPoint

from diffopd.build.experiment import Experiment
from diffopd.checkpoint import write_checkpoint
from diffopd.jobs import launch
from diffopd.run.resume import FINISHED
from support import copies
from support.slow import slow_but

OTHERS = ("nft", "dmd", "autoencoder", "cascade")
"""Those that save different things; `make soak` kills all phases, and tests/phase/test_resume.py cuts all."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(phases, trials)`` is the program, which forks its trainings; what it wrote."""
    fit = Experiment.fit

    def start_stage(running, command):
        """In the process of a cascade: its stages are forked, too, and do not tell the program of theirs."""
        Experiment.fit = fit
        return copies.start_job(running, command)

    monkeypatch.setattr(launch._Running, "_start", start_stage)

    def survive(phases, trials):
        places = ["--output", str(tmp_path / "out"), "--scratch", str(tmp_path / "runs"), "--rounds", "4"]
        assert soak.main(["--trials", str(trials), *places, "--phases", *phases]) == 0
        table = (tmp_path / "out" / "soak.md").read_text()
        return json.loads((tmp_path / "out" / "soak.json").read_text()), table

    return survive


def assert_nothing_was_lost(written, table, phases, trials):
    found = written["trials"]
    assert sorted({trial["phase"] for trial in found}) == sorted(phases)
    assert len(found) == len(phases) * trials
    assert all(trial["survived"] and not trial["differs"] for trial in found), found
    assert all(0 <= trial["lost"] <= written["interval"] for trial in found), found
    assert any(trial["killed"] for trial in found)
    assert all(f"| {phase} | {trials} | " in table for phase in phases)


@pytest.mark.slow
@pytest.mark.parametrize("phase", slow_but(OTHERS, "dmd"))
def test_another_phase_survives_a_kill(run, phase, monkeypatch):
    """At a file operation: at a moment, a machine that is faster now than a minute ago has ended before."""
    middle = staticmethod(lambda seed, phase, trial, operations: KillPoint(0.5, operations // 2, True))
    monkeypatch.setattr(KillPoint, "of", middle)
    assert_nothing_was_lost(*run([phase], 1), [phase], 1)


@pytest.mark.slow
def test_distillation_survives_kills_while_a_checkpoint_is_written(run):
    written, table = run(["opd"], 3)
    assert_nothing_was_lost(written, table, ["opd"], 3)
    assert sum("operation" in trial["kill"] for trial in written["trials"]) == 1
    assert run(["opd"], 3)[0]["trials"] == written["trials"]  # those that are there are not repeated


def test_earlier_trials_are_what_was_written_or_are_named(tmp_path):
    about = {"commit": "a", "rounds": 4, "seed": 0, "overrides": []}
    trial = soak.Trial("opd", 0, "at half", True, True, [], 1)
    soak.write(tmp_path, {**about, "command": "soak"}, [trial])
    same = {**about, "command": "other"}
    assert soak.earlier(tmp_path, same) == [trial]
    file = tmp_path / "soak.json"
    file.write_text(file.read_text().replace('"lost": 1', '"lost": 0'))
    with pytest.raises(ValueError, match=r"soak\.json is damaged"):
        soak.earlier(tmp_path, same)


def test_kill_points_follow_from_the_seed_and_reach_every_operation():
    points = [soak.KillPoint.of(0, "opd", trial, 20) for trial in range(600)]
    assert points == [soak.KillPoint.of(0, "opd", trial, 20) for trial in range(600)]
    assert points != [soak.KillPoint.of(1, "opd", trial, 20) for trial in range(600)]
    assert {point.operation for point in points} == {None, *range(20)}
    assert sum(point.operation is None for point in points) == 400
    assert min(point.share for point in points) < 0.02
    assert max(point.share for point in points) > 0.98


@pytest.fixture
def left(tmp_path):
    """``left(name, **changes)`` makes a finished run and returns its folder."""

    def make(name, *, weight=1.0, moment=0.5, reward="0.25", seconds="3.0"):
        folder = tmp_path / name
        state = {
            "state_dict": {"a": torch.tensor([weight])},
            "optimizer_states": [{"exp_avg": torch.tensor([moment])}],
            "callbacks": {"RoundCheckpoint": {"unlogged": seconds}},
        }
        write_checkpoint(state, folder / "checkpoints" / "round_000004")
        header = "step,epoch,train/reward/ocr,train/time/seconds_per_round"
        (folder / "metrics.csv").write_text(f"{header}\n3,3.0,{reward},{seconds}\n")
        (folder / FINISHED).write_text("{}")
        return folder

    return make


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, []),
        ({"seconds": "4.0"}, []),
        ({"weight": 1.0000001}, [".: state_dict.a"]),
        ({"moment": -0.5}, [".: optimizer_states.0.exp_avg"]),
        ({"reward": "0.5"}, [".: metrics.csv"]),
        ({"seconds": ""}, [".: metrics.csv"]),
    ],
)
def test_a_comparison_sees_every_bit_but_no_times(left, change, named):
    expected, found = (soak.what_is_left(folder) for folder in (left("whole"), left("cut", **change)))
    assert soak.differences(found, expected) == named


def test_lost_rounds_are_those_begun_since_the_checkpoint(left, tmp_path):
    folder = left("cut")
    assert soak.lost_rounds(folder) == 0
    with (folder / "metrics.csv").open("a") as file:
        file.write("4,4.0,,\n5,5.0,,\n")
    assert soak.lost_rounds(folder) == 2
    assert soak.lost_rounds(tmp_path / "absent") == 0


def test_the_table_has_a_line_for_each_phase():
    trials = [
        soak.Trial("opd", 0, "at 10% of the time", True, True, [], 1),
        soak.Trial("opd", 1, "in file operation 3", True, True, [], 2),
        soak.Trial("opd", 2, "at 99% of the time", False, False, ["it did not end well"], 0),
    ]
    assert soak.table(trials).splitlines()[2:] == ["| opd | 3 | 2 | 1 | 2 | 2 | 2 |"]
