"""Try many mutated configs and say what became of them: ``make fuzz COUNT=1000``."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from support.fuzz.mutation import Case, cases
from support.fuzz.outcome import Outcome, outcome_of
from support.tiny_runs import TinyWorld, make_world


def run(count: int, number: int, world: TinyWorld, folder: Path, report: Path | None = None) -> list[Outcome]:
    """What became of ``count`` cases; the same ones for the same ``number``."""
    outcomes: list[Outcome] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # every outcome is kept, so nothing is shrunk
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def each(case: Case) -> None:
        outcome = outcome_of(case, world, folder / f"case_{len(outcomes)}")
        outcomes.append(outcome)
        if report is not None:
            with report.open("a") as file:
                entry = {
                    "experiment": case.experiment, "changes": case.changes, "kind": outcome.kind,
                    "text": outcome.text, "seconds": outcome.seconds,
                }  # fmt: skip
                file.write(json.dumps(entry) + "\n")

    each()
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Counts per experiment, as Markdown."""
    names = sorted({outcome.case.experiment for outcome in outcomes})
    lines = ["| experiment | configs | two rounds | refused | other |", "|---|---|---|---|---|"]
    for name in [*names, "all"]:
        kinds = Counter(o.kind for o in outcomes if name in (o.case.experiment, "all"))
        lines.append(
            f"| `{name}` | {kinds.total()} | {kinds['ran']} | {kinds['refused']} | {kinds['other']} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run, print the table, and what was neither run nor refused."""
    count, number = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    report = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = make_world(folder / "world")
        gc.freeze()
        outcomes = run(count, number, world, folder / "cases", report)
    print(table(outcomes))
    others = [outcome for outcome in outcomes if outcome.kind == "other"]
    for outcome in others:
        print(f"\n{outcome.case.experiment} {' '.join(outcome.case.changes)}\n{outcome.text}")
    print(f"{len(outcomes)} configs in {time.perf_counter() - start:.0f} s, {len(others)} other outcomes")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
