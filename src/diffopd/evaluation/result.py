"""What an evaluation found, kept image by image so that two of them can be compared in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffopd.evaluation.conditions import Conditions, disagreements
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json
from diffopd.metric.interval import Interval, bootstrap_interval, paired_difference_interval
from diffopd.teacher import HIGHER, LOWER, MOST_SINGLE, NEITHER, Estimate, HeldOut, Score
from diffopd.types import Prompts


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Scores of one task's images.

    Attributes:
        value: The task's score with its 95 % interval over prompts; with tags, the mean over tags.
        tags: The same for each tag; empty if the metric has none.
        parts: Means of the reward's parts.
        texts: The prompts, one per group.
        groups: Which prompt each image is of.
        strata: Tag number of each image.
        scores: One reward per image, in the order of their indices.
    """

    value: Estimate
    tags: Mapping[str, Estimate]
    parts: Mapping[str, float]
    texts: tuple[str, ...]
    groups: tuple[int, ...]
    strata: tuple[int, ...]
    scores: tuple[float, ...]

    @staticmethod
    def of(
        scores: Tensor, strata: Tensor, tag_names: Sequence[str], parts: Mapping[str, float], prompts: Prompts
    ) -> TaskResult:
        """Summarize scores, given in the order of ``prompts``."""
        groups = torch.tensor(prompts.groups)
        tags = {}
        for number in strata.unique().tolist() if tag_names else []:
            rows = strata == number
            tags[tag_names[number]] = _estimate(scores[rows], groups[rows], strata[rows])
        return TaskResult(
            value=_estimate(scores, groups, strata),
            tags=tags,
            parts=dict(parts),
            texts=prompts.texts[: max(prompts.groups) + 1],
            groups=prompts.groups,
            strata=tuple(strata.tolist()),
            scores=tuple(scores.tolist()),
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Scores of one model, with one adapter at one guidance scale, on one benchmark.

    Attributes:
        benchmark: Its name.
        seed: The benchmark's.
        guidance_scale: Guidance of the images.
        adapter: Name or folder of the adapter used, or None for the backbone.
        tasks: task -> its scores; tasks without a metric are absent.
        held_out: Metric -> its scores over all images.
        conditions: task -> what its score was measured with; empty in results of before these were kept.
        held_out_conditions: Held-out metric -> the same; empty in results of before these were kept.
        held_out_better: Held-out metric -> which direction is better, as the metric itself says
            (``higher_is_better``); empty in results of before this was kept.
    """

    benchmark: str
    seed: int
    guidance_scale: float
    adapter: str | None
    tasks: Mapping[str, TaskResult]
    held_out: Mapping[str, Mapping[str, float]]
    conditions: Mapping[str, Conditions] = field(default_factory=dict)
    held_out_conditions: Mapping[str, Conditions] = field(default_factory=dict)
    held_out_better: Mapping[str, str] = field(default_factory=dict)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Task -> value."""
        return {task: result.value for task, result in self.tasks.items()}

    @property
    def means(self) -> dict[str, float]:
        """Task -> mean reward."""
        return {task: estimate.mean for task, estimate in self.estimates.items()}

    @property
    def scores(self) -> dict[str, Score]:
        """Task -> value, what it was measured with, first single scores: an entry of a card's ``scores``."""
        return {
            task: Score(
                **dataclasses.asdict(result.value),
                conditions=dict(self.conditions.get(task, {})),
                single=[round(score, 4) for score in result.scores[:MOST_SINGLE]],
            )
            for task, result in self.tasks.items()
        }

    @property
    def held_out_scores(self) -> dict[str, HeldOut]:
        """Held-out metric -> the value that tables show: an entry of a card's ``held_out``."""
        found: dict[str, HeldOut] = {}
        for metric, values in self.held_out.items():
            number = values.get(_NUMBER)
            if name := _main_value(values):
                found[metric] = HeldOut(
                    value=values[name],
                    n=None if number is None else round(number),
                    better=self.held_out_better.get(metric, _BETTER_BEFORE.get(name, NEITHER)),
                    conditions=dict(self.held_out_conditions.get(metric, {})),
                )
        return found

    def differences(self, other: EvaluationResult) -> list[str]:
        """Why scores of the two do not compare, task by task; empty if they do.

        Prompts, seeds and numbers of images are always known; sampler, metrics and model where both results
        record their conditions. A held-out metric that only one of them has is no difference.
        """
        lines: list[str] = []
        if self.seed != other.seed:
            lines.append(f"seed: {self.seed} and {other.seed}")
        for task in self.tasks.keys() & other.tasks.keys():
            ours, theirs = self.tasks[task], other.tasks[task]
            if len(ours.scores) != len(theirs.scores):
                lines.append(f"{task}, images: {len(ours.scores)} and {len(theirs.scores)}")
            elif (ours.texts, ours.groups) != (theirs.texts, theirs.groups):
                lines.append(f"{task}: other prompts")
            if self.conditions.get(task) and other.conditions.get(task):
                found = disagreements(self.conditions[task], other.conditions[task])
                lines += [f"{task}, {line}" for line in found if not line.startswith(("images", "prompts"))]
        for name in self.held_out_conditions.keys() & other.held_out_conditions.keys():
            found = disagreements(self.held_out_conditions[name], other.held_out_conditions[name])
            lines += [f"held out, {name}, {line}" for line in found if line.startswith("metric")]
        return sorted(lines)

    def gain_over(self, other: EvaluationResult, task: str) -> Interval:
        """Interval of this model's gain on a task, image against image, resampled over prompts.

        Raises:
            ValueError: If the two were scored on different prompts or noise.
        """
        ours, theirs = self.tasks[task], other.tasks[task]
        if (self.seed, ours.texts, ours.groups) != (other.seed, theirs.texts, theirs.groups):
            raise ValueError(
                f"the two results of {task} are of different prompts or seeds ({self.benchmark} and "
                f"{other.benchmark}); evaluate both on one benchmark"
            )
        if unlike := [line for line in self.differences(other) if line.startswith(f"{task},")]:
            raise ValueError(
                f"the two results are not comparable: {'; '.join(unlike)}; evaluate both with one config"
            )
        groups, strata = torch.tensor(ours.groups), torch.tensor(ours.strata)
        first, labels = _per_prompt(torch.tensor(ours.scores).double(), groups, strata)
        second, _ = _per_prompt(torch.tensor(theirs.scores).double(), groups, strata)
        return paired_difference_interval(first, second, strata=labels)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write as JSON."""
        write_sealed_json(path, dataclasses.asdict(self))
        return Path(path)

    @staticmethod
    def load(path: str | PathLike[str]) -> EvaluationResult:
        """Read what :meth:`save` wrote.

        Raises:
            DamagedFileError: If it is not that.
        """
        raw = read_sealed_json(path, [field.name for field in dataclasses.fields(EvaluationResult)])
        try:
            return EvaluationResult.of(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFileError(path, f"it holds no results ({error!r})") from error

    @staticmethod
    def of(raw: Mapping[str, Any]) -> EvaluationResult:
        """From the plain values that :meth:`save` writes."""
        tasks = {task: _task_from_json(entry) for task, entry in raw["tasks"].items()}
        return EvaluationResult(**{**raw, "tasks": tasks})


_NUMBER = "num_images"
_BETTER_BEFORE = {"value": HIGHER, "frechet_distance": LOWER}
"""Of the shipped metrics' values, for results of before directions were kept."""


def _main_value(values: Mapping[str, float]) -> str | None:
    """Name of a held-out metric's value that stands for it: ``value``, or else the first that it reports."""
    names = [name for name in values if name != _NUMBER]
    return "value" if "value" in names else next(iter(names), None)


def _estimate(scores: Tensor, groups: Tensor, strata: Tensor) -> Estimate:
    """Mean over strata of means over prompts; images of one prompt are not independent."""
    values, labels = _per_prompt(scores.double(), groups, strata)
    interval = bootstrap_interval(values, strata=labels)
    return Estimate(mean=interval.mean, low=interval.low, high=interval.high, n=len(scores))


def _per_prompt(scores: Tensor, groups: Tensor, strata: Tensor) -> tuple[Tensor, Tensor]:
    """Mean score and stratum of each prompt."""
    distinct, row = groups.unique(return_inverse=True)
    count = torch.zeros(len(distinct), dtype=scores.dtype).index_add_(0, row, torch.ones_like(scores))
    total = torch.zeros(len(distinct), dtype=scores.dtype).index_add_(0, row, scores)
    labels = torch.zeros(len(distinct), dtype=strata.dtype)
    labels[row] = strata
    return total / count, labels


def _task_from_json(raw: Mapping[str, Any]) -> TaskResult:
    lists = {name: tuple(raw[name]) for name in ("texts", "groups", "strata", "scores")}
    tags = {tag: Estimate(**entry) for tag, entry in raw["tags"].items()}
    return TaskResult(value=Estimate(**raw["value"]), tags=tags, parts=raw["parts"], **lists)
