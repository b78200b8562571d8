"""Folders as runs leave them, written without training."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from diffopd.evaluation.result import EvaluationResult, TaskResult
from diffopd.files.sample_row import SampleRow
from diffopd.teacher import Estimate


def write_run(
    folder: Path,
    name: str,
    seed: int,
    metrics: Mapping[str, Sequence[float | None]],
    *,
    seconds: float = 60.0,
    scores: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    planned: int | None = None,
    finished: bool = True,
) -> Path:
    """A run's config, metrics, note of its end and, at guidance 1, its scores on ``mini``.

    Metrics are lists with one value per round, None where nothing was logged; times come in lines of their
    own, as Lightning logs them.
    """
    folder.mkdir(parents=True)
    num_rounds = max(len(values) for values in metrics.values())
    planned = num_rounds if planned is None else planned
    config = {
        "name": name,
        "seed": seed,
        "run_id": f"seed{seed}",
        "phase": {"_target_": "diffopd.phase.DistillPhase", "seed": seed},
        "sampler": {"noise_level": 0.0, "guidance_scale": 1.0},
        "trainer": {"max_epochs": planned, "num_threads": 1},
        **(settings or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    times = ["train/time/seconds_per_round", "train/memory/peak_rss_gib"]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *metrics, "epoch", *times])
        writer.writeheader()
        for number in range(num_rounds):
            known = {metric: values[number] for metric, values in metrics.items()}
            writer.writerow({"step": number, "epoch": float(number)} | known)
            writer.writerow({"step": number, "epoch": float(number), times[0]: seconds, times[1]: 0.5})
    if scores is not None:
        result(scores).save(folder / "report" / "student_guidance_1.json")
    if finished:
        recipe = {"command": f"python -m diffopd.train +experiment={name} seed={seed}", "commit": "abc1234"}
        (folder / "finished.json").write_text(json.dumps({"max_rounds": planned, "recipe": recipe}))
    return folder


def write_samples(folder: Path, rounds: Iterable[int], prompts: Sequence[str] = ("a", "b")) -> None:
    """Rows of samples: prompt ``i`` is a plain picture whose red is the round and whose green is ``i``."""
    for number in rounds:
        row = SampleRow(round=number, prompts=tuple(prompts), tasks=("ocr",) * len(prompts), made_from="x")
        colours = [torch.tensor([number / 255, i / 255, 0.0]) for i in range(len(prompts))]
        images = torch.stack([colour.view(3, 1, 1).expand(3, 32, 32) for colour in colours])
        row.save(row.picture(images), folder)


def result(
    scores: Mapping[str, float],
    *,
    guidance_scale: float = 1.0,
    by_prompt: Mapping[str, Sequence[float]] | None = None,
    prompts: str = "prompt",
    held_out: Mapping[str, Mapping[str, float]] | None = None,
) -> EvaluationResult:
    """Scores of 64 images of 64 prompts for each task, all the same or, by task, those of ``by_prompt``."""
    single = {task: list((by_prompt or {}).get(task, [score] * 64)) for task, score in scores.items()}
    tasks = {
        task: TaskResult(
            value=Estimate(mean=sum(images) / len(images), low=score - 0.1, high=score + 0.1, n=len(images)),
            tags={},
            parts={},
            texts=tuple(f"{prompts} {number} of {task}" for number in range(len(images))),
            groups=tuple(range(len(images))),
            strata=(0,) * len(images),
            scores=tuple(images),
        )
        for task, score in scores.items()
        for images in [single[task]]
    }
    return EvaluationResult(
        benchmark="mini",
        seed=0,
        guidance_scale=guidance_scale,
        adapter="student",
        tasks=tasks,
        held_out=held_out or {},
    )
