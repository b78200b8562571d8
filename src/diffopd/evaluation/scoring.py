"""Run a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rich.console import Console
from torch import Tensor
from torchmetrics import Metric

from diffopd.evaluation.benchmark import Benchmark
from diffopd.evaluation.generate import generate_batches
from diffopd.evaluation.progress import ImageProgress
from diffopd.evaluation.result import EvaluationResult, TaskResult
from diffopd.metric.reward_mean import RewardMean
from diffopd.reward.checked import within
from diffopd.types import Prompts, VelocityModel

OnImages = Callable[[str, Prompts, Tensor], None]
"""``(task, prompts, images)`` of each batch, e.g. to save them."""


def evaluate(
    model: VelocityModel,
    benchmark: Benchmark,
    *,
    batch_size: int,
    adapter: str | None = None,
    guidance_scale: float | None = None,
    on_images: OnImages | None = None,
    label: str | None = None,
    console: Console | None = None,
) -> EvaluationResult:
    """Make a benchmark's images and score them.

    Args:
        model: The backbone with its adapters.
        benchmark: What to measure; its metrics are reset.
        batch_size: Images made together.
        adapter: Name of the adapter to use; None = the backbone.
        guidance_scale: Of the images; None = what the benchmark's sampler carries.
        on_images: Called with each batch.
        label: What progress is called.
        console: Where progress goes.

    Raises:
        RewardError: If an image cannot be scored.
    """
    scale = float(benchmark.sampler.guidance_scale if guidance_scale is None else guidance_scale)
    prompts = benchmark.prompts()
    metrics = {task: entry.metric for task, entry in benchmark.tasks.items() if entry.metric is not None}
    for metric in (*metrics.values(), *benchmark.held_out.values()):
        metric.reset()
    total, first_of_task = sum(map(len, prompts.values())), 0
    with ImageProgress(label or f"evaluating {adapter or 'base'}", total, console=console) as progress:
        for task, rows in prompts.items():
            batches = generate_batches(
                model,
                rows,
                sampler=benchmark.sampler,
                guidance_scale=scale,
                adapters=adapter,
                seed=benchmark.seed,
                batch_size=batch_size,
            )
            for batch, images in batches:
                if task in metrics:
                    with within("metric"):
                        metrics[task].update(images, batch)
                numbered = dataclasses.replace(batch, indices=tuple(first_of_task + i for i in batch.indices))
                for name, metric in benchmark.held_out.items():
                    with within(f"held_out.{name}"):
                        metric.update(images, numbered)
                if on_images is not None:
                    on_images(task, batch, images)
                progress.advance(len(batch))
            first_of_task += len(rows)
    return EvaluationResult(
        benchmark=benchmark.name,
        seed=benchmark.seed,
        guidance_scale=scale,
        adapter=adapter,
        tasks={task: _task_result(metric, prompts[task]) for task, metric in metrics.items()},
        held_out={name: _plain(metric) for name, metric in benchmark.held_out.items()},
    )


def _task_result(metric: RewardMean, prompts: Prompts) -> TaskResult:
    parts = {part: value for part, value in _plain(metric).items() if part in metric.parts}
    return TaskResult.of(metric.samples(), metric.strata(), metric.tags, parts, prompts)


def _plain(metric: Metric) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}
