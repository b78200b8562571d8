"""What is measured and how: prompts, seeds, sampler and metrics under one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchmetrics import Metric

from diffopd.data.prompt_files import PromptEntry, read_prompts
from diffopd.evaluation.captioned import captioned_prompts
from diffopd.files.paths import resolve_path
from diffopd.metric.reward_mean import RewardMean
from diffopd.reward.checked import check_prompt
from diffopd.types import Picture, Prompts, Sampler


@dataclass(frozen=True, kw_only=True)
class BenchmarkTask:
    """The prompts of one task, and what scores their images.

    Attributes:
        path: Prompt file, ``.txt`` or ``.jsonl``; or a folder of captioned pictures, whose captions are the
            prompts, each with its picture.
        num_prompts: Take the file's first so many; None = all.
        images_per_prompt: Images of each, from different noise.
        metric: Scores the images; None only makes them.
    """

    path: str
    num_prompts: int | None
    images_per_prompt: int
    metric: RewardMean | None

    def prompts(self, task: str) -> Prompts:
        """One row per image: the whole file once for each of ``images_per_prompt``.

        ``indices`` number the images of the task, ``groups`` its prompts.

        Raises:
            ValueError: If the file cannot be read, has fewer prompts than asked for, or one that the metric's
                reward could give no image a mark for.
        """
        at = f"benchmark.tasks.{task}"
        entries, pictures = self._entries(task, f"{at}.path")
        number = len(entries) if self.num_prompts is None else self.num_prompts
        if not 1 <= number <= len(entries):
            raise ValueError(
                f"{at}.num_prompts={number} is out of range; {self.path} holds {len(entries)} prompts"
            )
        if self.images_per_prompt < 1:
            raise ValueError(f"{at}.images_per_prompt={self.images_per_prompt} must be at least 1")
        entries, pictures = entries[:number], pictures[:number]
        self._check(entries, pictures, task, f"{at}.path={self.path}")
        entries, pictures = entries * self.images_per_prompt, pictures * self.images_per_prompt
        return Prompts(
            texts=tuple(entry.text for entry in entries),
            tasks=(task,) * len(entries),
            metadata=tuple(entry.metadata for entry in entries),
            indices=tuple(range(len(entries))),
            groups=tuple(row % number for row in range(len(entries))),
            targets=tuple(pictures),
            references=tuple(entry.references for entry in entries),
        )

    def _entries(self, task: str, setting: str) -> tuple[list[PromptEntry], list[Picture | None]]:
        """The prompts, each with its picture if there are any."""
        if Path(resolve_path(self.path)).is_dir():
            found = captioned_prompts(self.path, task, setting=setting)
            return [entry for entry, _ in found], [picture for _, picture in found]
        entries = read_prompts(self.path, task, setting=setting)
        return entries, [None] * len(entries)

    def _check(
        self, entries: Sequence[PromptEntry], pictures: Sequence[Picture | None], task: str, setting: str
    ) -> None:
        """Have the reward look at every prompt, as a training's does."""
        reward = None if self.metric is None else self.metric.reward
        for entry, picture in zip(entries, pictures, strict=True):
            try:
                prompt = Prompts((entry.text,), (task,), (entry.metadata,), (0,), (0,), (picture,))
                check_prompt(reward, prompt)
            except ValueError as error:
                raise ValueError(f"{setting}, line {entry.line}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A complete rule for scoring a model, so that two scores of one name can be compared.

    Attributes:
        name: Its name on cards and in tables.
        seed: Of the noise; image ``i`` of a task starts from the same noise for every model.
        sampler: How images are made; carries the guidance scale used unless another is asked for.
        tasks: task -> its prompts and metric.
        held_out: Metrics over the images of all tasks together that nothing is trained on.
        held_out_tasks: Those of them that see the images of some tasks alone, and which.
        held_out_parts: Name -> ``<held-out metric>.<part>``: parts of these metrics that are reported as
            metrics of their own, at no further cost.
        settings: The config it was built from, as plain values; empty where it was built without one.
            Kept with scores, so that those of another sampler or metric are told apart.
    """

    name: str
    seed: int
    sampler: Sampler
    tasks: Mapping[str, BenchmarkTask]
    held_out: Mapping[str, Metric]
    held_out_tasks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held_out_parts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("benchmark.tasks is empty; name at least one task")
        for name, tasks in self.held_out_tasks.items():
            if name not in self.held_out:
                raise ValueError(
                    f"benchmark.held_out_tasks names {name}, benchmark.held_out has {sorted(self.held_out)}"
                )
            if not tasks or set(tasks) - set(self.tasks):
                raise ValueError(
                    f"benchmark.held_out_tasks.{name}={list(tasks)} must name some of the tasks "
                    f"{sorted(self.tasks)}"
                )
        for name, place in self.held_out_parts.items():
            self._check_part(name, place)

    def _check_part(self, name: str, place: str) -> None:
        setting = f"benchmark.held_out_parts.{name}"
        if name in self.held_out:
            raise ValueError(f"{setting}: benchmark.held_out has a metric of that name; choose another")
        metric, _, part = place.partition(".")
        known = {
            f"{other}.{its}"
            for other, entry in self.held_out.items()
            if isinstance(entry, RewardMean)
            for its in entry.parts
        }
        if f"{metric}.{part}" not in known:
            raise ValueError(
                f"{setting}={place} must be <held-out metric>.<part>, one of {', '.join(sorted(known))}"
            )

    @property
    def scored_tasks(self) -> set[str]:
        """Tasks that have a metric."""
        return {name for name, task in self.tasks.items() if task.metric is not None}

    def held_out_of(self, task: str) -> dict[str, Metric]:
        """The held-out metrics that see the images of a task, by name."""
        return {
            name: metric
            for name, metric in self.held_out.items()
            if task in self.held_out_tasks.get(name, self.tasks)
        }

    def prompts(self) -> dict[str, Prompts]:
        """Task -> one row per image."""
        return {name: task.prompts(name) for name, task in self.tasks.items()}


def file_benchmark(
    *,
    name: str,
    path: str,
    task: str,
    num_prompts: int | None,
    images_per_prompt: int,
    metric: RewardMean | None,
    seed: int,
    sampler: Sampler,
) -> Benchmark:
    """A benchmark of one prompt file; arguments as for :class:`Benchmark` and :class:`BenchmarkTask`."""
    only = BenchmarkTask(
        path=path, num_prompts=num_prompts, images_per_prompt=images_per_prompt, metric=metric
    )
    return Benchmark(name=name, seed=seed, sampler=sampler, tasks={task: only}, held_out={})
