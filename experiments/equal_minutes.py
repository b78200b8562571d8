"""What rounds took, and how many make equal minutes: ``python experiments/equal_minutes.py runs/methods/one``."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffopd.files.markdown import markdown_table
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.runs import Run

AS_LONG_AS, STUDENT = "nft", "opd"
"""The row whose minutes the others are to take, and the one whose minutes are its teachers', too."""
TEACHER = "teacher_"


def equal_rounds(runs: Sequence[Run]) -> list[tuple[str, int, float, float, int]]:
    """Of each trained row its rounds, seconds of a round, minutes, and the rounds that make equal minutes.

    Minutes are medians over seeds. Those of the student include its teachers', one after the other, and its
    rounds of equal minutes are of the student alone, with the same teachers.

    Args:
        runs: Of a table, called by their rows.
    """
    seeds: dict[str, list[Run]] = {}
    for run in runs:
        if run.minutes:
            seeds.setdefault(run.name, []).append(run)
    minutes = {row: statistics.median(run.minutes[run.num_rounds] for run in of) for row, of in seeds.items()}
    rounds = {row: of[0].num_rounds for row, of in seeds.items()}
    found = []
    for row in minutes:
        before = _of_teachers(minutes) if row == STUDENT else 0.0
        equal = (minutes[AS_LONG_AS] - before) / minutes[row] * rounds[row]
        found.append((row, rounds[row], 60 * minutes[row] / rounds[row], minutes[row] + before, round(equal)))
    return found


def _of_teachers(minutes: Mapping[str, float]) -> float:
    return sum(spent for row, spent in minutes.items() if row.startswith(TEACHER))


def table(runs: Sequence[Run]) -> str:
    """The same in Markdown."""
    header = ["row", "rounds", "seconds of a round", "minutes", f"rounds in the minutes of {AS_LONG_AS}"]
    lines = [
        [row, f"{number}", f"{seconds:.1f}", f"{minutes:.1f}", f"{equal}"]
        for row, number, seconds, minutes, equal in equal_rounds(runs)
    ]
    return markdown_table(header, lines)


if __name__ == "__main__":
    print(table(find_runs([str(Path(sys.argv[1]) / "data")])))
