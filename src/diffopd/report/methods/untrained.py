"""Models that nothing trained: the same whatever the seed, and part of the reports of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffopd.evaluation import EvaluationResult
from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run
from diffopd.teacher import HeldOut

BASE = "base"
"""What a claim calls the base model, and what runs' own tables call it."""


def for_every_seed(runs: Sequence[Run]) -> list[Run]:
    """Runs, those of an untrained model once for every seed of the trained ones.

    Args:
        runs: Of a table's rows; an untrained one has neither config nor metrics.
    """
    seeds = sorted({run.seed for run in runs if _is_trained(run)})
    return [
        copy
        for run in runs
        for copy in (
            [run] if _is_trained(run) or not seeds else [dataclasses.replace(run, seed=n) for n in seeds]
        )
    ]


def base_of(method: Method, benchmark: str) -> Method | None:
    """The base model as the reports of a method's runs have it, for every seed; None if one has none.

    Only held-out values are taken: of its scores the reports keep no single prompts.
    """
    runs = {seed: _base(run, benchmark) for seed, run in method.runs.items()}
    known = {seed: run for seed, run in runs.items() if run is not None}
    if not known or len(known) < len(runs):
        return None
    return Method(key=BASE, label=BASE, runs=known, left_out=(), settings={})


def _base(run: Run, benchmark: str) -> Run | None:
    if str(run.table.get("title", "")).partition(":")[0] != benchmark:
        return None
    rows = [row for row in run.table["rows"] if row["name"] == BASE and row.get("held_out")]
    return dataclasses.replace(run, results=[(Path(), _result(row, benchmark)) for row in rows])


def _result(row: dict[str, Any], benchmark: str) -> EvaluationResult:
    values = HeldOut.of_each(row["held_out"])
    return EvaluationResult(
        benchmark=benchmark,
        seed=0,
        guidance_scale=row["guidance_scale"],
        adapter=None,
        tasks={},
        held_out={
            name: {"value": entry.value, "num_images": float(entry.n or 0)} for name, entry in values.items()
        },
        held_out_conditions={name: entry.conditions for name, entry in values.items()},
        held_out_better={name: entry.better for name, entry in values.items()},
    )


def _is_trained(run: Run) -> bool:
    return bool(run.settings or run.series)
