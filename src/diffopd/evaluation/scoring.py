"""Run a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from torch import Tensor
from torchmetrics import Metric

from diffopd.evaluation.benchmark import Benchmark
from diffopd.evaluation.conditions import Conditions, conditions_of, held_out_conditions_of
from diffopd.evaluation.generate import generate_batches
from diffopd.evaluation.processes import ALONE, Processes
from diffopd.evaluation.progress import ImageProgress
from diffopd.evaluation.records import MemoryRecords, Records
from diffopd.evaluation.result import EvaluationResult, TaskResult
from diffopd.metric.kept import Kept, add_kept, kept_of
from diffopd.metric.reward_mean import RewardMean
from diffopd.reward.checked import within
from diffopd.teacher import HIGHER, LOWER, NEITHER
from diffopd.types import Prompts, VelocityModel

OnImages = Callable[[str, Prompts, Tensor], None]
"""``(task, prompts, images)`` of each batch, e.g. to save them."""

_TASK_METRIC = "metric"


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
    """Make a benchmark's images and score them, in this process alone.

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
    records = MemoryRecords()
    total = sum(map(len, benchmark.prompts().values()))
    with ImageProgress(label or f"evaluating {adapter or 'base'}", total, console=console) as progress:
        for number in measure(
            model,
            benchmark,
            records,
            batch_size=batch_size,
            adapter=adapter,
            guidance_scale=scale,
            on_images=on_images,
        ):
            progress.advance(number)
    return result_of(
        benchmark,
        records,
        adapter=adapter,
        guidance_scale=scale,
        conditions=conditions_of(benchmark, model),
        held_out_conditions=held_out_conditions_of(benchmark, model),
    )


def measure(
    model: VelocityModel,
    benchmark: Benchmark,
    records: Records,
    *,
    batch_size: int,
    adapter: str | None,
    guidance_scale: float,
    on_images: OnImages | None = None,
    processes: Processes = ALONE,
) -> Iterator[int]:
    """Make and score this process's share of the images that are not recorded yet, and record them.

    Which images are made together depends on ``batch_size`` alone, not on what is recorded or on the number
    of processes, so the records are the same to the bit.

    Args:
        model: The backbone with its adapters.
        benchmark: What to measure.
        records: What is there, and gets the rest; all processes have the same.
        batch_size: Images made together.
        adapter: Name of the adapter to use; None = the backbone.
        guidance_scale: Of the images.
        on_images: Called with each batch before it is recorded.
        processes: Those that share the work.

    Yields:
        The number of images of each batch, once it is recorded.

    Raises:
        RewardError: If an image cannot be scored.
    """
    prompts = benchmark.prompts()
    units = [
        (task, rows) for task in prompts for rows in _batches(prompts[task], records.done(task), batch_size)
    ]
    processes.wait()  # all have seen what is there before anyone adds to it
    first_of_task = _first_of_task(prompts)
    for task, rows in processes.share(units):
        batches = generate_batches(
            model,
            prompts[task].select(rows),
            sampler=benchmark.sampler,
            guidance_scale=guidance_scale,
            adapters=adapter,
            seed=benchmark.seed,
            batch_size=len(rows),
        )
        for batch, images in batches:
            kept: dict[str, Kept] = {}
            for name, (metric, place) in _metrics(benchmark, task).items():
                numbered = batch if name == _TASK_METRIC else _numbered(batch, first_of_task[task])
                with within(place):
                    kept[name] = kept_of(metric, images, numbered)
            if on_images is not None:
                on_images(task, batch, images)
            records.add(task, batch.indices, kept)
            yield len(batch)


def result_of(
    benchmark: Benchmark,
    records: Records,
    *,
    adapter: str | None,
    guidance_scale: float,
    conditions: Mapping[str, Conditions],
    held_out_conditions: Mapping[str, Conditions] | None = None,
) -> EvaluationResult:
    """The scores of a benchmark's images, each counted once, in the order of their indices.

    Args:
        benchmark: What was measured; its metrics are reset.
        records: Of all its images.
        adapter: Name or path of the adapter, for the result.
        guidance_scale: Of the images.
        conditions: By :func:`~diffopd.evaluation.conditions_of`, kept with the scores.
        held_out_conditions: By :func:`~diffopd.evaluation.held_out_conditions_of`; None = not known.

    Raises:
        ValueError: If an image is not recorded.
    """
    prompts = benchmark.prompts()
    metrics = {task: entry.metric for task, entry in benchmark.tasks.items() if entry.metric is not None}
    for metric in (*metrics.values(), *benchmark.held_out.values()):
        metric.reset()
        metric.distributed_available_fn = _nobody_else  # the records are of all processes
    for task, first in _first_of_task(prompts).items():
        indices, kept = records.read(task)
        if indices != prompts[task].indices:
            missing = sorted(set(prompts[task].indices) - set(indices))
            raise ValueError(
                f"{len(missing)} of {len(prompts[task])} images of {task} are not recorded (number "
                f"{missing[0] if missing else 'none'} is the first); do all processes write to one folder?"
            )
        for name, (metric, _) in _metrics(benchmark, task).items():
            rows = prompts[task] if name == _TASK_METRIC else _numbered(prompts[task], first)
            add_kept(metric, kept[name], rows)
    held_out = {name: _plain(metric) for name, metric in benchmark.held_out.items()}
    better = {name: _better(metric) for name, metric in benchmark.held_out.items()}
    for name, place in benchmark.held_out_parts.items():
        whole, _, part = place.partition(".")
        held_out[name] = {"value": held_out[whole][part], "num_images": held_out[whole]["num_images"]}
        better[name] = better[whole]
    return EvaluationResult(
        benchmark=benchmark.name,
        seed=benchmark.seed,
        guidance_scale=guidance_scale,
        adapter=adapter,
        tasks={task: _task_result(metric, prompts[task]) for task, metric in metrics.items()},
        held_out=held_out,
        conditions=conditions,
        held_out_conditions=held_out_conditions or {},
        held_out_better=better,
    )


def _batches(prompts: Prompts, done: set[int], batch_size: int) -> Iterator[list[int]]:
    """Rows to be made together, without those that are done."""
    for start in range(0, len(prompts), batch_size):
        rows = range(start, min(start + batch_size, len(prompts)))
        if left := [row for row in rows if prompts.indices[row] not in done]:
            yield left


def _metrics(benchmark: Benchmark, task: str) -> dict[str, tuple[Metric, str]]:
    """Name in the records -> metric that sees the images of ``task``, and its place in the config."""
    of_task = benchmark.tasks[task].metric
    found: dict[str, tuple[Metric, str]] = {} if of_task is None else {_TASK_METRIC: (of_task, "metric")}
    return found | {
        f"held_out.{name}": (metric, f"held_out.{name}")
        for name, metric in benchmark.held_out_of(task).items()
    }


def _first_of_task(prompts: Mapping[str, Prompts]) -> dict[str, int]:
    """Task -> number of its first image among those of all tasks."""
    first, numbers = 0, {}
    for task, rows in prompts.items():
        numbers[task] = first
        first += len(rows)
    return numbers


def _numbered(prompts: Prompts, first: int) -> Prompts:
    """With the numbers that images have among those of all tasks."""
    return dataclasses.replace(prompts, indices=tuple(first + index for index in prompts.indices))


def _nobody_else() -> bool:
    return False


def _task_result(metric: RewardMean, prompts: Prompts) -> TaskResult:
    parts = {part: value for part, value in _plain(metric).items() if part in metric.parts}
    return TaskResult.of(metric.samples(), metric.strata(), metric.tags, parts, prompts)


def _better(metric: Metric) -> str:
    """Which direction of its value is better; ``neither`` where the metric does not say."""
    if metric.higher_is_better is None:
        return NEITHER
    return HIGHER if metric.higher_is_better else LOWER


def _plain(metric: Metric) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}
