"""Rows of a comparison, their means over seeds, and the mean of their normalized scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffopd.report.methods.difference import half_interval
from diffopd.teacher import Estimate, HeldOut

Place = tuple[str, str]
"""Benchmark and task of a score."""


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What a training took.

    Attributes:
        minutes: Wall-clock minutes.
        images: Images sampled.
        reward_calls: Images scored.
    """

    minutes: float
    images: int
    reward_calls: int


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One row with one seed, at one guidance scale.

    Attributes:
        name: Name of the row.
        seed: Its seed.
        note: What it is, in a few words.
        guidance_scale: Guidance it was scored at.
        cost: Of its own training.
        teachers: Costs of its teachers; empty if it has none.
        scores: benchmark -> task -> score.
        images: Folder of the scored images of the first benchmark, ``<task>/<index>.png``.
        trained: Whether anything was trained: a base model's row is not.
        taught_by: Task -> name of the row that is its teacher.
        held_out: benchmark -> held-out metric -> value.
    """

    name: str
    seed: int
    note: str
    guidance_scale: float
    cost: TrainingCost
    teachers: Sequence[TrainingCost]
    scores: Mapping[str, Mapping[str, Estimate]]
    images: Path
    trained: bool
    taught_by: Mapping[str, str]
    held_out: Mapping[str, Mapping[str, HeldOut]] = field(default_factory=dict)

    @property
    def minutes_alone(self) -> float:
        """Without its teachers."""
        return self.cost.minutes

    @property
    def minutes(self) -> float:
        """With the slowest teacher, the paper's way: teachers can be trained side by side."""
        return self.cost.minutes + max((teacher.minutes for teacher in self.teachers), default=0.0)

    @property
    def minutes_in_all(self) -> float:
        """With all teachers."""
        return self.cost.minutes + sum(teacher.minutes for teacher in self.teachers)

    @property
    def images_in_all(self) -> int:
        """With all teachers."""
        return self.cost.images + sum(teacher.images for teacher in self.teachers)

    @property
    def reward_calls_in_all(self) -> int:
        """With all teachers."""
        return self.cost.reward_calls + sum(teacher.reward_calls for teacher in self.teachers)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row as ``table.csv`` keeps it: enough for the table, without pictures and curves.

    Attributes:
        name: Name of the row.
        seed: Its seed.
        note: What it is, in a few words.
        guidance_scale: Guidance it was scored at.
        minutes_alone: Without its teachers.
        minutes: With the slowest teacher.
        minutes_in_all: With all teachers.
        images_in_all: With all teachers.
        reward_calls_in_all: With all teachers.
        scores: benchmark -> task -> score.
        held_out: benchmark -> held-out metric -> value; empty in tables of before these were kept.
    """

    name: str
    seed: int
    note: str
    guidance_scale: float
    minutes_alone: float
    minutes: float
    minutes_in_all: float
    images_in_all: int
    reward_calls_in_all: int
    scores: Mapping[str, Mapping[str, Estimate]]
    held_out: Mapping[str, Mapping[str, HeldOut]] = field(default_factory=dict)


AnyRow = ComparedRow | TableRow


@dataclass(frozen=True)
class OverSeeds:
    """A score over seeds: mean, and half of its 95 % interval by Student's t, None where it is not known."""

    mean: float
    half: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row at one guidance scale, over its seeds.

    Attributes:
        name: Name of the row.
        guidance_scale: Guidance it was scored at.
        num_seeds: How many seeds.
        minutes: Mean minutes with the slowest teacher.
        minutes_in_all: Mean minutes with all teachers.
        images: Mean number of images, with all teachers.
        reward_calls: Mean number of reward calls, with all teachers.
        scores: Where -> score.
        held_out: Where -> each seed's value of what nothing is trained on. It has no part in the normalized
            mean, the paper's average of what is trained on.
    """

    name: str
    guidance_scale: float
    num_seeds: int
    minutes: float
    minutes_in_all: float
    images: float
    reward_calls: float
    scores: Mapping[Place, OverSeeds]
    held_out: Mapping[Place, Sequence[HeldOut]] = field(default_factory=dict)


def summarise(rows: Sequence[AnyRow]) -> list[Summary]:
    """Means over seeds, in the order the rows came."""
    seeds: dict[tuple[str, float], list[AnyRow]] = {}
    for row in rows:
        seeds.setdefault((row.name, row.guidance_scale), []).append(row)
    return [_summary(same) for same in seeds.values()]


def _summary(rows: Sequence[AnyRow]) -> Summary:
    places = [(benchmark, task) for benchmark, scores in rows[0].scores.items() for task in scores]
    values = {
        (benchmark, task): [row.scores[benchmark][task].mean for row in rows] for benchmark, task in places
    }
    return Summary(
        name=rows[0].name,
        guidance_scale=rows[0].guidance_scale,
        num_seeds=len(rows),
        minutes=statistics.fmean(row.minutes for row in rows),
        minutes_in_all=statistics.fmean(row.minutes_in_all for row in rows),
        images=statistics.fmean(row.images_in_all for row in rows),
        reward_calls=statistics.fmean(row.reward_calls_in_all for row in rows),
        scores={
            place: OverSeeds(statistics.fmean(found), half_interval(found)) for place, found in values.items()
        },
        held_out={
            (benchmark, metric): [
                row.held_out[benchmark][metric] for row in rows if metric in row.held_out.get(benchmark, {})
            ]
            for benchmark, metric in held_out_places(rows)
        },
    )


def held_out_places(rows: Sequence[AnyRow]) -> list[Place]:
    """Benchmark and held-out metric of every value that a row has."""
    places = [
        (benchmark, metric) for row in rows for benchmark, found in row.held_out.items() for metric in found
    ]
    return list(dict.fromkeys(places))


def normalised(summaries: Sequence[Summary]) -> list[dict[Place, float]]:
    """Each row's scores, each from 0 for the worst row to 1 for the best; 1 if all rows are equal."""
    result: list[dict[Place, float]] = [{} for _ in summaries]
    for place in summaries[0].scores:
        values = [summary.scores[place].mean for summary in summaries]
        low, high = min(values), max(values)
        for row, value in zip(result, values, strict=True):
            row[place] = (value - low) / (high - low) if high > low else 1.0
    return result


def normalised_means(summaries: Sequence[Summary]) -> list[float]:
    """The mean of each row's min-max normalized scores: the paper's "Average", over this table's rows."""
    return [statistics.fmean(row.values()) for row in normalised(summaries)]
