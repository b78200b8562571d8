"""Scores of several evaluations in one file, and as a table: ``python collect.py scores.json name=results.json ...``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffopd.evaluation import EvaluationResult
from diffopd.files.atomic import atomic_write_json
from diffopd.teacher import Estimate

TASKS = ("composition", "ocr", "aesthetic")


def collect(results: Iterable[str]) -> dict[str, Any]:
    """Name and guidance -> benchmark, each score with its 95 % CI, what was not used for training; in the given order."""
    found = {}
    for argument in results:
        name, _, path = argument.partition("=")
        result = EvaluationResult.load(Path(path))
        found[f"{name}, guidance {result.guidance_scale:g}"] = {
            "benchmark": result.benchmark,
            "scores": {task: _plain(task_result.value) for task, task_result in result.tasks.items()},
            "held_out": {kind: held.value for kind, held in result.held_out_scores.items()},
        }
    return found


def _plain(estimate: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(estimate)


def table(found: Mapping[str, Any]) -> str:
    """Means, and half of each 95 % CI over prompts."""
    lines = [f"| | guidance | {' | '.join(TASKS)} |", "| --- | ---: |" + " ---: |" * len(TASKS)]
    for key, entry in found.items():
        name, _, guidance = key.partition(", guidance ")
        cells = [
            f"{score['mean']:.3f} ±{(score['high'] - score['low']) / 2:.3f}"
            for score in (entry["scores"][task] for task in TASKS)
        ]
        lines.append(f"| {name} | {guidance} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    collected = collect(sys.argv[2:])
    atomic_write_json(Path(sys.argv[1]), collected)
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
