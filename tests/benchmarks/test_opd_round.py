"""The benchmark runs, compares what it says it compares, and weighs what is alive."""

from __future__ import annotations

import json

import opd_round
import pytest
import torch
from comparison import Comparison, Measured
from measured import PeakMemory


@pytest.mark.slow
def test_a_run_prints_tables_and_writes_every_time(world, tmp_path, capsys):
    output = tmp_path / "out"
    small = ["--model-path", str(world.pipeline), "--repeats", "2", "--rows-per-task", "1"]
    opd_round.main([*small, "--steps", "3", "6", "--output", str(output)])
    written = json.loads((output / "opd_round.json").read_text())
    assert set(written["ways"]) == {
        way for entry in opd_round.COMPARISONS for way in (entry.slower, entry.faster)
    }
    for way in written["ways"].values():
        assert len(way["seconds"]) == 2
        assert min(way["seconds"]) > 0
        assert way["peak_bytes"] > 0
    printed, page = capsys.readouterr().out, (output / "opd_round.md").read_text()
    assert page.startswith("`python benchmarks/opd_round.py --model-path")
    for entry in opd_round.COMPARISONS:
        assert entry.name in printed
        assert f"| {entry.name} | {written['ratios'][entry.name]:.2f} |" in page

    steps = {way: (sizes["3"], sizes["6"]) for way, sizes in written["peak_bytes_by_steps"].items()}
    few, many = steps[opd_round.FUSED]
    assert many == pytest.approx(few, rel=0.01), "only one step's activations are ever alive"
    few, many = steps[opd_round.TWO_PASS]
    assert many > few, "it stores the rollout"
    few, many = steps[opd_round.ONE_BACKWARD]
    assert many > 1.5 * few, "it keeps every step's activations"


def test_a_ratio_is_of_medians_and_its_spread_of_turns():
    found = {"old": Measured([3.0, 50.0, 1.0], 30), "new": Measured([1.0, 2.0, 9.0], 15)}
    entry = Comparison("new, not old", slower="old", faster="new")
    assert entry.ratio(found) == 1.5
    assert entry.spread(found) == (1 / 9, 25.0)
    assert entry.memory(found) == 0.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the CPU's allocator")
def test_peak_memory_is_what_was_alive_at_once():
    before, memory = torch.zeros(1000), PeakMemory()
    memory.start()
    for _ in range(3):
        first = before.exp()
        second = first * first
        del first
        third = second.exp()  # 8 kB alive: second and third
        del second, third
    assert memory.stop() == 8000
    weight = torch.ones(100, 100, requires_grad=True)
    memory.start()
    saved = weight.exp().exp().exp()  # autograd keeps all three results of 40 kB
    assert memory.stop() == 120_000
    assert saved.requires_grad
