"""How many rounds take as long as another row's."""

from __future__ import annotations

import dataclasses

from diffopd.report.methods.runs import read_run
from support.run_folders import write_run
from support.scripts import experiment_script


def test_rounds_of_equal_minutes_by_hand(tmp_path):
    """A student has the minutes that its teachers leave."""
    runs = []
    for row, rounds, seconds in (
        ("nft", 4, (60.0, 90.0, 120.0)),  # a median of 6 minutes
        ("guard", 4, (180.0, 180.0, 180.0)),  # 3 minutes a round: 2 rounds
        ("teacher_ocr", 2, (60.0, 60.0, 60.0)),  # 2 minutes
        ("opd", 8, (30.0, 30.0, 30.0)),  # 4 minutes are left, of half a minute a round: 8 rounds
    ):
        for seed, each in enumerate(seconds):
            folder = tmp_path / row / f"seed{seed}"
            write_run(folder, row, seed, {"train/reward/ocr": [0.1] * rounds}, seconds=each)
            runs.append(dataclasses.replace(read_run(folder), name=row))
    script = experiment_script("equal_minutes")
    assert script.equal_rounds(runs) == [
        ("nft", 4, 90.0, 6.0, 4),
        ("guard", 4, 180.0, 12.0, 2),
        ("teacher_ocr", 2, 60.0, 2.0, 6),
        ("opd", 8, 30.0, 6.0, 8),
    ]
    assert "| guard | 4 | 180.0 | 12.0 | 2 |" in script.table(runs)
