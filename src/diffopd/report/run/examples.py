"""Pictures of several models on prompts that :mod:`diffopd.report.run.chosen` chooses, drawn and scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

from diffopd.evaluation import Benchmark, evaluate, generate
from diffopd.files.grid import enlarged
from diffopd.files.sample_sheet import SampleSheet
from diffopd.model import PipelineModel
from diffopd.report.run.chosen import Choice, choose, first, rule_sentence
from diffopd.teacher import Estimate, Score
from diffopd.types import Prompts


@dataclass(frozen=True)
class Painter:
    """A model that draws: an adapter at a guidance scale.

    Attributes:
        label: What the picture calls it.
        adapter: Name of the adapter; None = the backbone.
        guidance_scale: Guidance of its images.
    """

    label: str
    adapter: str | None
    guidance_scale: float


def draw_examples(
    model: PipelineModel,
    benchmark: Benchmark,
    *,
    base: Painter,
    teachers: Mapping[str, Painter],
    students: Sequence[Painter],
    known: Mapping[Painter, Mapping[str, Estimate]],
    per_task: int,
    searched: int,
    batch_size: int,
    console: Console | None = None,
) -> SampleSheet | None:
    """Choose prompts of each task, draw them with every model from the same noise, score every image.

    Args:
        model: Holds all adapters.
        benchmark: Gives prompts, noise, sampler and metrics.
        base: The base model.
        teachers: Task -> its teacher; a task that the benchmark lacks is left out.
        students: Columns after the teachers.
        known: Model -> task -> its score on the same benchmark; where that has the scores of single images,
            nothing is drawn to choose.
        per_task: Prompts of each task.
        searched: The first so many prompts of a task are looked at.
        batch_size: Images made together.
        console: Where progress goes.

    Returns:
        The sheet, or None if the benchmark has none of the tasks.

    Raises:
        RewardError: If an image cannot be scored.
    """
    prompts = {task: rows for task, rows in benchmark.prompts().items() if task in teachers}
    if not prompts:
        return None
    numbers = {task: max(rows.groups) + 1 for task, rows in prompts.items()}
    small = _first_prompts(benchmark, {task: min(searched, number) for task, number in numbers.items()})

    def scores(painter: Painter, tasks: Sequence[str]) -> dict[str, Sequence[float]]:
        """Task -> score of the first image of each prompt that is looked at."""
        there = {task: _single(known.get(painter, {}).get(task)) for task in tasks}
        found = {
            task: single[:wanted]
            for task, single in there.items()
            if len(single) >= (wanted := small.tasks[task].num_prompts or 0)
        }
        if missing := {task: small.tasks[task] for task in tasks if task not in found}:
            result = evaluate(
                model,
                dataclasses.replace(small, tasks=missing),
                batch_size=batch_size,
                adapter=painter.adapter,
                guidance_scale=painter.guidance_scale,
                label=f"choosing pictures: {' '.join(painter.label.split())}",
                console=console,
            )
            found |= {task: result.tasks[task].scores for task in missing}
        return found

    scored = [task for task in prompts if benchmark.tasks[task].metric is not None]
    of_base = scores(base, scored) if scored else {}
    of_teachers: dict[str, Sequence[float]] = {}
    for painter in dict.fromkeys(teachers[task] for task in scored):
        of_teachers |= scores(painter, [task for task in scored if teachers[task] == painter])
    choices = [
        choose(task, of_base[task], of_teachers[task], number=per_task)
        if task in scored
        else first(task, numbers[task], number=per_task)
        for task in prompts
    ]
    columns = list(dict.fromkeys((base, *(teachers[task] for task in prompts), *students)))
    return _draw(model, benchmark, prompts, choices, columns, batch_size)


def _draw(
    model: PipelineModel,
    benchmark: Benchmark,
    prompts: Mapping[str, Prompts],
    choices: Sequence[Choice],
    columns: Sequence[Painter],
    batch_size: int,
) -> SampleSheet:
    chosen = {choice.task: prompts[choice.task].select(choice.places) for choice in choices}
    rows = Prompts.concat(list(chosen.values()))
    images = [
        generate(
            model,
            rows,
            sampler=benchmark.sampler,
            guidance_scale=column.guidance_scale,
            adapters=column.adapter,
            seed=benchmark.seed,
            batch_size=batch_size,
        )
        for column in columns
    ]
    scores: list[list[float | None]] = []
    for number, column in enumerate(images):
        scores.append([])
        for task, part in zip(chosen, column.split([len(found) for found in chosen.values()]), strict=True):
            metric = benchmark.tasks[task].metric
            values = None if metric is None else metric.keep(part, chosen[task]).rows["value"].tolist()
            scores[number] += [None] * len(part) if values is None else values
    return SampleSheet(
        columns=[column.label for column in columns],
        prompts=list(zip(rows.tasks, rows.texts, strict=True)),
        scores=[list(row) for row in zip(*scores, strict=True)],
        rule=rule_sentence(choices),
        images=[[enlarged(image) for image in row] for row in torch.stack(images, 1)],
    )


def _first_prompts(benchmark: Benchmark, numbers: Mapping[str, int]) -> Benchmark:
    """The first prompts of some tasks, one image of each, from the same noise as in the whole benchmark."""
    tasks = {
        task: dataclasses.replace(benchmark.tasks[task], num_prompts=number, images_per_prompt=1)
        for task, number in numbers.items()
    }
    return dataclasses.replace(benchmark, tasks=tasks, held_out={}, held_out_tasks={}, held_out_parts={})


def _single(score: Estimate | None) -> Sequence[float]:
    """Scores of the first images, as far as they are known."""
    return score.single if isinstance(score, Score) else ()
