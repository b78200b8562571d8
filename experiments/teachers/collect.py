"""Scores of several evaluations in one file, and as a table: ``python collect.py scores.json name=results.json ...``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffopd.evaluation import EvaluationResult
from diffopd.files.atomic import atomic_write_json
from diffopd.files.markdown import markdown_table

TASKS = ("composition", "ocr", "aesthetic")


def collect(results: Iterable[str]) -> dict[str, Any]:
    """Name and guidance -> benchmark, each score with its 95 % CI, and what was not used for training.

    Args:
        results: ``<name>=<results.json>`` of each evaluation.
    """
    found = {}
    for argument in results:
        name, _, path = argument.partition("=")
        result = EvaluationResult.load(Path(path))
        found[f"{name}, guidance {result.guidance_scale:g}"] = {
            "benchmark": result.benchmark,
            "scores": {task: dataclasses.asdict(scored.value) for task, scored in result.tasks.items()},
            "held_out": {kind: held.value for kind, held in result.held_out_scores.items()},
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """Means, and half of each 95 % CI over prompts, by name and guidance."""
    rows = []
    for key, entry in sorted(found.items()):
        name, _, guidance = key.partition(", guidance ")
        scores = [entry["scores"][task] for task in TASKS]
        rows.append(
            [name, guidance, *(f"{s['mean']:.3f} ±{(s['high'] - s['low']) / 2:.3f}" for s in scores)]
        )
    return markdown_table(["", "guidance", *TASKS], rows)


if __name__ == "__main__":
    collected = collect(sys.argv[2:])
    atomic_write_json(Path(sys.argv[1]), collected)
    print(table(collected))
