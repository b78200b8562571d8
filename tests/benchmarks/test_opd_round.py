"""The benchmark runs and compares what it says it compares."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "phase"))

from tiny_runs import make_world


@pytest.fixture(scope="module")
def opd_round():
    path = Path(__file__).parents[2] / "benchmarks" / "opd_round.py"
    spec = importlib.util.spec_from_file_location("opd_round", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_prints_a_table_and_writes_every_time(opd_round, tmp_path, capsys):
    world, output = make_world(tmp_path), tmp_path / "out" / "times.json"
    small = ["--model-path", str(world.pipeline), "--repeats", "2", "--rows-per-task", "2"]
    opd_round.main([*small, "--output", str(output)])
    written = json.loads(output.read_text())
    assert set(written["seconds"]) == {way for pair in opd_round.RATIOS.values() for way in pair}
    assert all(len(values) == 2 and min(values) > 0 for values in written["seconds"].values())
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in opd_round.RATIOS)


def test_ratios_are_of_medians(opd_round):
    seconds = {way: [1.0, 2.0, 9.0] for pair in opd_round.RATIOS.values() for way in pair}
    seconds["two-pass, tasks together"] = [3.0, 50.0, 1.0]
    assert opd_round.ratios(seconds) == {
        "two-pass round / fused round": 1.5,
        "task by task / tasks together": 1.0,
        "teachers one by one / mixed batch": 1.0,
    }
