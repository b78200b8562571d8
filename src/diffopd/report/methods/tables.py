"""Benchmark scores over seeds, with the claims they bear on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffopd.evaluation import EvaluationResult
from diffopd.report.methods.difference import spread_text
from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run
from diffopd.report.methods.verdict import Verdict
from diffopd.report.run.held_out import DIGITS, Cell, HeldOutTable, Place, cells_of, held_out_table
from diffopd.teacher import HeldOut


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A method at one guidance scale.

    Attributes:
        name: Its label.
        note: What is special about the row.
        guidance_scale: Guidance of the images.
        num_seeds: How many seeds; None for base and teachers, which are no methods of these runs.
        cells: One text per column of the table.
        verdicts: Of the claims that say this method is better than another.
    """

    name: str
    note: str
    guidance_scale: float
    num_seeds: int | None
    cells: Sequence[str]
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores on one benchmark.

    Attributes:
        benchmark: Its name.
        columns: Tasks, the mean over them.
        rows: The methods.
        held_out: The same models by what nothing is trained on; None if nothing of it is known.
    """

    benchmark: str
    columns: Sequence[str]
    rows: Sequence[ScoreRow]
    held_out: HeldOutTable | None


def score_tables(methods: Sequence[Method], verdicts: Sequence[Verdict]) -> list[ScoreTable]:
    """A table for each benchmark: base and teachers as the runs have them, then the methods.

    Results of one benchmark's name that were measured with different settings (other prompts, other samplers)
    are in tables of their own, as their scores do not compare.
    """
    return [
        _score_table(title, alike, methods, verdicts) for title, alike in _measured_alike(methods).items()
    ]


def _measured_alike(methods: Sequence[Method]) -> dict[str, list[tuple[Method, Run, EvaluationResult]]]:
    """Title of a table -> results that compare, each with its method and run."""
    groups: dict[str, list[list[tuple[Method, Run, EvaluationResult]]]] = {}
    for method in methods:
        for run in method.runs.values():
            for _, result in run.results:
                known = groups.setdefault(result.benchmark, [])
                group = next((group for group in known if not result.differences(group[0][2])), None)
                if group is None:
                    known.append(group := [])
                group.append((method, run, result))
    titles: dict[str, list[tuple[Method, Run, EvaluationResult]]] = {}
    for benchmark, known in groups.items():
        titles[benchmark] = known[0]
        for group in known[1:]:
            unlike = "; ".join(group[0][2].differences(known[0][0][2]))
            titles[f"{benchmark}, measured with other settings than above ({unlike})"] = group
    return titles


def _score_table(
    title: str,
    alike: Sequence[tuple[Method, Run, EvaluationResult]],
    methods: Sequence[Method],
    verdicts: Sequence[Verdict],
) -> ScoreTable:
    found: dict[tuple[str, float], dict[int, Mapping[str, float]]] = {}
    held_out: dict[tuple[str, float], dict[int, Mapping[str, HeldOut]]] = {}
    for method, run, result in alike:
        scores = {task: estimate.mean for task, estimate in result.estimates.items()}
        at = (method.label, result.guidance_scale)
        found.setdefault(at, {}).setdefault(run.seed, scores)
        held_out.setdefault(at, {}).setdefault(run.seed, result.held_out_scores)
    given, given_held_out = _given_rows(alike)
    every = [*(scores for seeds in found.values() for scores in seeds.values()), *given.values()]
    tasks = list(dict.fromkeys(task for scores in every for task in scores))
    rows = [
        ScoreRow(
            name=name,
            note="",
            guidance_scale=scale,
            num_seeds=None,
            cells=_cells([scores], tasks),
            verdicts=(),
        )
        for (name, scale, _), scores in given.items()
    ]
    by_label = {method.label: method for method in methods}
    for (label, scale), seeds in found.items():
        trained_at = next(iter(by_label[label].runs.values())).guidance_scale
        own = [
            verdict
            for verdict in verdicts
            if not verdict.no_runs
            and verdict.claim.method in (by_label[label].key, label)
            and scale == (trained_at if verdict.guidance is None else verdict.guidance)
        ]
        rows.append(
            ScoreRow(
                name=label,
                note="as trained" if scale == trained_at else "",
                guidance_scale=scale,
                num_seeds=len(seeds),
                cells=_cells(list(seeds.values()), tasks),
                verdicts=own,
            )
        )
    below = [
        *(
            ([name, f"{scale:g}", "-"], cells_of(given_held_out.get((name, scale, place), {})))
            for name, scale, place in given
        ),
        *(
            ([label, f"{scale:g}", f"{len(seeds)}"], cells_over_seeds(list(seeds.values())))
            for (label, scale), seeds in held_out.items()
        ),
    ]
    return ScoreTable(
        benchmark=title,
        columns=[*tasks, "mean of tasks"],
        rows=rows,
        held_out=held_out_table(["Model", "Guidance", "n"], below),
    )


def cells_over_seeds(seeds: Sequence[Mapping[str, HeldOut]], benchmark: str = "") -> dict[Place, Cell]:
    """Mean and interval over seeds of each held-out value; of a value that some seeds lack, over the others.

    Args:
        seeds: Held-out metric -> value, of each seed.
        benchmark: Where several stand in one table, the benchmark's name.
    """
    found: dict[Place, Cell] = {}
    for metric in dict.fromkeys(metric for values in seeds for metric in values):
        known = [values[metric] for values in seeds if metric in values]
        found[benchmark, metric] = Cell(
            text=mean_and_interval([held_out.value for held_out in known], DIGITS),
            better=known[-1].better,
            n=known[-1].n,
        )
    return found


_Given = tuple[str, float, int]
"""Name, guidance, which of several."""


def _given_rows(
    alike: Sequence[tuple[Method, Run, EvaluationResult]],
) -> tuple[dict[_Given, Mapping[str, float]], dict[_Given, Mapping[str, HeldOut]]]:
    """Scores and held-out values of base and teachers, from the runs' own tables."""
    given: dict[_Given, Mapping[str, float]] = {}
    held_out: dict[_Given, Mapping[str, HeldOut]] = {}
    for _, run, result in alike:
        for name, scale, scores, own in _own_table(run, result):
            known = {place: others for place, others in given.items() if place[:2] == (name, scale)}
            place = next((place for place, others in known.items() if others == scores), None)
            if place is None:
                given[place := (name, scale, len(known))] = scores
            held_out[place] = {**own, **held_out.get(place, {})}
    return given, held_out


def _own_table(
    run: Run, result: EvaluationResult
) -> list[tuple[str, float, Mapping[str, float], Mapping[str, HeldOut]]]:
    """Rows of the run's table that have as many images as a result."""
    if str(run.table.get("title", "")).partition(":")[0] != result.benchmark:
        return []
    numbers = {task: estimate.n for task, estimate in result.estimates.items()}
    return [
        (
            row["name"],
            row["guidance_scale"],
            {task: score["mean"] for task, score in row["scores"].items()},
            HeldOut.of_each(row.get("held_out", {})),
        )
        for row in run.table["rows"]
        if row["name"] != "student"
        and row["scores"]
        and all(score["n"] == numbers.get(task, score["n"]) for task, score in row["scores"].items())
    ]


def _cells(seeds: Sequence[Mapping[str, float]], tasks: Sequence[str]) -> list[str]:
    columns = [[scores[task] for scores in seeds if task in scores] for task in tasks]
    complete = [scores for scores in seeds if set(tasks) <= set(scores)]
    whole = [statistics.fmean(scores[task] for task in tasks) for scores in complete]
    return [mean_and_interval(values, 3) for values in [*columns, whole]]


def mean_and_interval(values: Sequence[float], digits: int) -> str:
    """``mean ±`` half of its 95 % interval over seeds; ``±?`` if all are equal, the value alone for one seed.

    Examples:
        >>> mean_and_interval([1.0, 2.0, 3.0], 1)
        '2.0 ±2.5'
    """
    if not values:
        return "-"
    return f"{statistics.fmean(values):,.{digits}f}{spread_text(values, digits)}"
